package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// terminal returns the file of standard input if a person is there.
func (p *program) terminal() (*os.File, bool) {
	f, ok := p.Stdin.(*os.File)
	if !ok {
		return nil, false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return f, err == nil
}

// ask asks a question and returns the answered line.
func (p *program) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(p.Stderr, question)
	var line []byte
	// Byte by byte, so that nothing of the next answer is lost in a buffer.
	for b := make([]byte, 1); len(line) <= maxSecret; {
		if err := p.awaitInput(ctx); err != nil {
			return "", err
		}
		if _, err := io.ReadFull(p.Stdin, b); err != nil {
			return "", fmt.Errorf("no answer: %w", err)
		}
		if b[0] == '\n' {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		line = append(line, b[0])
	}
	return "", errors.New("answer is too long")
}

// awaitInput waits for a key or the end of ctx, so that an interrupt at a
// question leaves the terminal as it was.
func (p *program) awaitInput(ctx context.Context) error {
	f, ok := p.terminal()
	if !ok {
		return ctx.Err()
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 {
			return nil
		}
	}
}

// prompt asks for a secret without echo.
func (p *program) prompt(ctx context.Context, question string) (string, error) {
	f, ok := p.terminal()
	if !ok {
		return "", usage("give it in a file: see the flags that end in -file", "%s nobody is there to ask", strings.TrimSpace(question))
	}
	fd := int(f.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return "", err
	}
	silent := *old
	silent.Lflag &^= unix.ECHO
	silent.Lflag |= unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &silent); err != nil {
		return "", err
	}
	answer, err := p.ask(ctx, question)
	fmt.Fprintln(p.Stderr)
	return answer, errors.Join(err, unix.IoctlSetTermios(fd, unix.TCSETS, old))
}

// newSecret asks twice.
func (p *program) newSecret(ctx context.Context, name string) (string, error) {
	first, err := p.prompt(ctx, name+": ")
	if err != nil {
		return "", err
	}
	second, err := p.prompt(ctx, name+" again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", usage("", "%s: the two are not the same", name)
	}
	return first, nil
}

// confirm lets a person type the name of what is about to change.
func (p *program) confirm(ctx context.Context, word string) error {
	if _, ok := p.terminal(); !ok {
		return usage("give --yes if it is meant", "this is dangerous and nobody is there to ask")
	}
	answer, err := p.ask(ctx, fmt.Sprintf("Type %s to go on: ", word))
	if err != nil {
		return err
	}
	if strings.TrimSpace(answer) != word {
		return usage("", "not confirmed, nothing changed")
	}
	return nil
}
