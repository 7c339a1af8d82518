package journal

import (
	"fmt"
	"os"
	"testing"

	"github.com/postern-mail/postern/internal/base/fsx"
)

// BenchmarkWrite groups what writers ask for at the same time into one Write,
// as the sequencer does: so many records per batch.
func BenchmarkWrite(b *testing.B) {
	for _, c := range []struct{ writers, size int }{{1, 4 << 10}, {64, 4 << 10}, {64, 64 << 10}, {256, 64 << 10}, {16, 1 << 20}} {
		b.Run(fmt.Sprintf("%dx%dKiB", c.writers, c.size>>10), func(b *testing.B) {
			l := benchLog(b)
			body := make([]byte, c.size)
			for i := range body {
				body[i] = byte(i * 7)
			}
			var buf []byte
			b.SetBytes(int64(c.writers * c.size))
			for b.Loop() {
				from := l.End()
				end := from
				buf = buf[:0]
				for range c.writers {
					buf, end = AppendRecord(buf, end, KindChange, 1, 1, body[:100], body)
				}
				if err := l.Write(buf, from, end); err != nil {
					b.Fatal(err)
				}
				if end.LSN-l.Start() > 512<<20 {
					b.StopTimer()
					if err := l.DropBefore(end.LSN - 64<<20); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
				}
			}
			b.ReportMetric(float64(c.writers*b.N)/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(l.Syncs())/b.Elapsed().Seconds(), "syncs/s")
		})
	}
}

// BenchmarkDisk is what the same disk does with nothing but a direct write
// and a sync of a preallocated, already written file: the limit to compare with.
func BenchmarkDisk(b *testing.B) {
	for _, size := range []int{8 << 10, 280 << 10, 4 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			f, err := fsx.OS{}.OpenFile(b.TempDir()+"/f", fsx.Write|fsx.New|fsx.Direct)
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			buf := fsx.Buffer(size)
			const file = 64 << 20
			for off := 0; off+size <= file; off += size {
				if _, err := f.WriteAt(buf, int64(off)); err != nil {
					b.Fatal(err)
				}
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(size))
			off := int64(0)
			for b.Loop() {
				if off+int64(size) > file {
					off = 0
				}
				if _, err := f.WriteAt(buf, off); err != nil {
					b.Fatal(err)
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				off += int64(size)
			}
		})
	}
}

func benchLog(b *testing.B) *Log {
	dir := b.TempDir()
	l, err := Open(dir, Options{Identity: testID, Rest: -1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		l.Close()
		os.RemoveAll(dir)
	})
	return l
}
