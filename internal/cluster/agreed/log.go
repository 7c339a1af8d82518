package agreed

import (
	"context"
	"io"
	"log"
	"log/slog"
	"runtime"
	"sync"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

// fatal catches what etcd would end the process for. The goroutine that met
// the error ends, the rest of the process goes on serving mail, and the room
// decides what to do with the member.
type fatal struct {
	ch   chan struct{}
	once sync.Once
	mu   sync.Mutex // guards msg
	msg  string
}

func newFatal() *fatal { return &fatal{ch: make(chan struct{})} }

// OnWrite implements zapcore.CheckWriteHook.
func (f *fatal) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	f.mu.Lock()
	if f.msg == "" {
		f.msg = e.Message
		for _, x := range fields {
			if err, ok := x.Interface.(error); ok && x.Key == "error" {
				f.msg += ": " + err.Error()
			}
		}
	}
	f.mu.Unlock()
	f.once.Do(func() { close(f.ch) })
	runtime.Goexit()
}

func (f *fatal) text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.msg
}

// zapLogger carries etcd's warnings and errors to slog.
func zapLogger(l *slog.Logger, f *fatal) *zap.Logger {
	return zap.New(&core{log: l}, zap.WithFatalHook(f))
}

type core struct {
	log    *slog.Logger
	fields []zapcore.Field
}

// Enabled implements zapcore.LevelEnabler. A member that starts, stops or
// loses a peer says so with many warnings; what matters of that the room
// reports by itself, so warnings go to debug.
func (c *core) Enabled(l zapcore.Level) bool {
	return l >= zapcore.WarnLevel && c.log.Enabled(context.Background(), levelOf(l))
}

func levelOf(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.DPanicLevel:
		return slog.LevelError
	case l >= zapcore.ErrorLevel:
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (c *core) With(fs []zapcore.Field) zapcore.Core {
	return &core{c.log, append(c.fields[:len(c.fields):len(c.fields)], fs...)}
}

func (c *core) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if c.Enabled(e.Level) {
		return ce.AddCore(e, c)
	}
	return ce
}

func (c *core) Write(e zapcore.Entry, fs []zapcore.Field) error {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range c.fields {
		f.AddTo(enc)
	}
	for _, f := range fs {
		f.AddTo(enc)
	}
	attrs := make([]slog.Attr, 0, len(enc.Fields))
	for k, v := range enc.Fields {
		attrs = append(attrs, slog.Any(k, v))
	}
	c.log.LogAttrs(context.Background(), levelOf(e.Level), "etcd: "+e.Message, attrs...)
	return nil
}

func (c *core) Sync() error { return nil }
