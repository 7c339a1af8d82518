package peers

import (
	"bytes"
	"net"
	"os/exec"
	"strings"
	"testing"
)

// swaks runs a dialogue at addr and returns its transcript.
func swaks(t *testing.T, addr string, args ...string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/usr/bin/swaks", append([]string{"--server", host, "--port", port, "--helo", "client.test", "--timeout", "30", "--suppress-data"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		t.Fatalf("swaks: %v", err)
	}
	return string(bytes.ReplaceAll(out, []byte("\r"), nil))
}

// says checks that all texts are in a transcript.
func says(t *testing.T, what, transcript string, want ...string) {
	t.Helper()
	for _, s := range want {
		if !strings.Contains(transcript, s) {
			t.Errorf("%s: no %q in\n%s", what, s, transcript)
		}
	}
}

// testOpenRelay asks for all that relays were made to do, each from a network of
// its own: guessers have to wait.
func testOpenRelay(t *testing.T, w *world) {
	w.domain(t, "probe.test", "", "")
	for i, c := range []struct{ from, to string }{
		{"x@probe.test", "victim@foreign.test"},
		{"ann@example.test", "victim@foreign.test"}, // our own name
		{"<>", "victim@foreign.test"},
		{"x@probe.test", "victim%foreign.test@example.test"},
		{"x@probe.test", "foreign.test!victim@example.test"},
		{"x@probe.test", "@example.test:victim@foreign.test"},
		{"x@probe.test", `"victim@foreign.test"@example.test`},
		{"x@probe.test", "victim@[127.0.0.21]"},
		{"x@probe.test", "victim@foreign.test@example.test"},
		{"x@probe.test", "victim%foreign.test@mbx1.example.test"},
	} {
		addr := stranger(t, w.host.SMTP(), net.IPv4(192, 0, byte(10+i), 1).String())
		out := swaks(t, addr, "--from", c.from, "--to", c.to, "--quit-after", "RCPT")
		if !strings.Contains(out, "<** 550 5.7.1 ") && !strings.Contains(out, "<** 553 5.1.3 ") && !strings.Contains(out, "<** 501 5.1.3 ") {
			t.Errorf("from %s to %s:\n%s", c.from, c.to, out)
		}
	}
}

// testSubmission logs in, and does not.
func testSubmission(t *testing.T, w *world) {
	door := w.host.Submission()
	says(t, "without TLS", swaks(t, door, "--from", ann, "--to", bob, "--quit-after", "RCPT"), "<** 530 5.7.0 ")
	clear := swaks(t, door, "--from", ann, "--to", bob, "--auth", "PLAIN", "--auth-user", ann, "--auth-password", password)
	says(t, "a password in clear", clear, "Host did not advertise authentication")
	says(t, "without a login", swaks(t, door, "--tls", "--from", ann, "--to", bob, "--quit-after", "RCPT"), "<~* 530 5.7.0 ")
	login := []string{"--tls", "--auth-user", ann, "--auth-password", password, "--to", bob}
	with := func(more ...string) string { return swaks(t, door, append(more, login...)...) }
	says(t, "a wrong password", swaks(t, door, "--tls", "--auth", "PLAIN", "--auth-user", ann, "--auth-password", "wrong", "--from", ann, "--to", bob), "<~* 535 5.7.8 ")
	says(t, "PLAIN", with("--auth", "PLAIN", "--from", ann, "--header", "Subject: swaks by PLAIN"), "<~  235 2.7.0 ", "<~  250 2.0.0 ")
	says(t, "LOGIN", with("--auth", "LOGIN", "--from", ann, "--header", "Subject: swaks by LOGIN"), "<~  235 2.7.0 ", "<~  250 2.0.0 ")
	says(t, "somebody else", with("--auth", "PLAIN", "--from", "bob@example.test", "--quit-after", "RCPT"), " 5.7.1 ")
	w.read(t, bob, "INBOX", "swaks by PLAIN")
	w.read(t, bob, "INBOX", "swaks by LOGIN")
	says(t, "AUTH where servers send", swaks(t, w.host.SMTP(), "--tls", "--auth", "PLAIN", "--auth-user", ann, "--auth-password", password, "--from", ann, "--to", bob), "Host did not advertise authentication")
}

// testPipelining sends commands without waiting for answers, in clear and in TLS.
func testPipelining(t *testing.T, w *world) {
	for name, args := range map[string][]string{"pipelined in clear": nil, "pipelined in TLS": {"--tls"}} {
		out := swaks(t, w.host.SMTP(), append(args, "--pipeline", "--from", "x@postfix.test", "--to", ann+","+bob, "--header", "Subject: "+name)...)
		says(t, name, out, "PIPELINING", "250 2.0.0 ")
		for _, who := range []string{ann, bob} {
			w.read(t, who, "INBOX", name)
		}
	}
	says(t, "what is offered", swaks(t, w.host.SMTP(), "--quit-after", "EHLO"), "-PIPELINING", "-8BITMIME", "-SMTPUTF8", "-DSN", " STARTTLS", "-SIZE ", "-ENHANCEDSTATUSCODES")
}
