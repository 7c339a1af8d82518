package imapd

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
)

// clientsEnv makes the test binary a client process that holds sessions, so
// that what they cost is not counted for the server: "addr count".
const clientsEnv = "POSTERN_IMAPD_IDLE_CLIENTS"

func TestMain(m *testing.M) {
	if v := os.Getenv(clientsEnv); v != "" {
		holdSessions(v)
		return
	}
	os.Exit(m.Run())
}

// holdSessions opens sessions in IDLE, says "ready" and waits for its input
// to end.
func holdSessions(spec string) {
	addr, count, _ := strings.Cut(spec, " ")
	n, _ := strconv.Atoi(count)
	var held []*tls.Conn
	for range n {
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) // a certificate of this test
		held = append(held, c)
		if err == nil {
			_, err = io.WriteString(c, "a LOGIN ann secret\r\nb SELECT INBOX\r\nc IDLE\r\n")
		}
		for r := bufio.NewReaderSize(c, 512); err == nil; {
			var line string
			if line, err = r.ReadString('\n'); strings.HasPrefix(line, "+ idling") {
				break
			}
		}
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	for _, c := range held {
		c.Close()
	}
}

// TestIdleMemory measures what 1,000 idle sessions with TLS cost the server:
// the issue allows 40 KiB each.
func TestIdleMemory(t *testing.T) {
	const sessions = 1000
	w := newWorld(t, func(c *Config) {
		c.MaxSessionsPerAccount = sessions
		c.WaitTimeout = conf.Duration(time.Minute)
	})
	w.append("INBOX", hello)
	before := memory()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clientsEnv+"="+fmt.Sprintf("%s %d", w.srv.Addrs("tls")[0], sessions))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer in.Close()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("clients: %s", line)
	}
	after := memory()
	heap, stack := (after.HeapAlloc-before.HeapAlloc)/sessions, (after.StackInuse-before.StackInuse)/sessions
	t.Logf("%d bytes per idle session (heap %d, stacks %d)", heap+stack, heap, stack)
	if heap+stack > 40<<10 {
		t.Errorf("an idle session costs %d bytes, more than 40 KiB", heap+stack)
	}
}

// memory is what is in use after the garbage was collected; stacks shrink by
// half with each collection.
func memory() (m runtime.MemStats) {
	for range 4 {
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return m
}
