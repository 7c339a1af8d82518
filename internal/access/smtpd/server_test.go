package smtpd

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	gosmtp "github.com/emersion/go-smtp"
	pp "github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What the queue says becomes one answer, which the client can act on.
func TestQueueAnswers(t *testing.T) {
	w := open(t, nil)
	c := dial(t, w.addr("receive"))
	c.say("HELO client.test", "250")
	for _, x := range []struct {
		err  error
		want string
	}{
		{kind.Errorf(kind.Busy, "copy: %w", mail.ErrNoSecondCopy), "451 4.4.0 No second server can store it now"},
		{kind.Errorf(kind.Busy, "pressure"), "451 4.3.0 Queue is busy, try again later"},
		{context.DeadlineExceeded, "451 4.3.0 Queue is busy, try again later"},
		{kind.Errorf(kind.Full, "disk"), "452 4.3.1 Not enough storage"},
		{kind.Errorf(kind.Denied, "limit"), "450 4.7.1"},
		{kind.Errorf(kind.Invalid, "size"), "552 5.3.4"},
		{kind.Errorf(kind.Internal, "secret detail"), "451 4.3.0 Message was not kept, try again later"},
		{nil, "250 2.0.0 Kept as "},
	} {
		w.queue.fail(x.err)
		c.mail("Subject: x\r\n\r\nbody", x.want, "ann@example.test")
	}
	if n := len(w.queue.all()); n != 1 {
		t.Fatal("kept", n)
	}
	if n := w.memory.used.Load(); n != 0 {
		t.Fatal(n, "bytes are still counted")
	}
}

// F29, B14: a connection that ends anywhere in the dialogue leaves nothing.
func TestCutAnywhere(t *testing.T) {
	const talk = "EHLO c.test\r\nMAIL FROM:<a@c.test>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\nSubject: x\r\n\r\nbody\r\n.\r\n"
	const chunks = "EHLO c.test\r\nMAIL FROM:<a@c.test>\r\nRCPT TO:<ann@example.test>\r\nBDAT 3\r\na\r\nBDAT 2 LAST\r\n\r\n"
	w := open(t, nil)
	for _, s := range []string{talk, chunks} {
		for n := range len(s) {
			c := dial(t, w.addr("receive"))
			c.write(s[:n])
			c.nc.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c.nc)
			c.nc.Close()
		}
	}
	if n := len(w.queue.mailbox("ann")); n != 0 {
		t.Fatal(n, "messages came from half dialogues")
	}
	c := dial(t, w.addr("receive"))
	c.write(talk)
	c.say("QUIT", "250")
	eventually(t, "message", func() bool { return len(w.queue.mailbox("ann")) == 1 })
}

// The same dialogue in single bytes.
func TestByteByByte(t *testing.T) {
	w := open(t, nil)
	c := dial(t, w.addr("receive"))
	c.nc.(*net.TCPConn).SetNoDelay(true)
	for _, b := range []byte("HELO c.test\r\nMAIL FROM:<a@c.test>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n..x\r\n..\r\n.\r\n") {
		c.write(string(b))
	}
	for _, want := range []string{"250", "250", "250", "354", "250"} {
		c.hear(want)
	}
	if got := w.queue.mailbox("ann")[0]; !strings.HasSuffix(got, "\r\n.x\r\n.\r\n") {
		t.Fatalf("%q", got)
	}
}

// Other people's client against our server, with everything on.
func TestAnotherClient(t *testing.T) {
	w := open(t, nil)
	c, err := gosmtp.DialStartTLS(w.addr("submission"), testClientTLS())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Auth(sasl.NewPlainClient("", "ann@example.test", "secret-ann")); err != nil {
		t.Fatal(err)
	}
	body := "From: ann@example.test\r\nSubject: long\r\n\r\n" + strings.Repeat(strings.Repeat("x", 70)+"\r\n.\r\n", 20000)
	err = c.Mail("ann@example.test", &gosmtp.MailOptions{Size: int64(len(body)), Body: gosmtp.Body8BitMIME, UTF8: true, Return: gosmtp.DSNReturnFull, EnvelopeID: "e1"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Rcpt("bob@example.test", &gosmtp.RcptOptions{Notify: []gosmtp.DSNNotify{gosmtp.DSNNotifyNever}}); err != nil {
		t.Fatal(err)
	}
	d, err := c.Data()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(d, body); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Quit(); err != nil {
		t.Fatal(err)
	}
	got := w.queue.mailbox("bob")[0]
	if !strings.HasSuffix(got, body) || !strings.Contains(got, " with UTF8SMTPSA id ") {
		t.Fatalf("%d bytes: %s", len(got), got[:min(len(got), 600)])
	}
}

func TestLimitOfConnections(t *testing.T) {
	w := open(t, func(c *Config) { c.MaxConnectionsPerAddress = 2 })
	a, _ := dial(t, w.addr("receive")), dial(t, w.addr("receive"))
	third, err := net.Dial("tcp", w.addr("receive"))
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	if b, _ := io.ReadAll(third); !strings.HasPrefix(string(b), "421 4.7.0") {
		t.Fatalf("%q", b)
	}
	a.say("QUIT", "221")
	eventually(t, "a place is free again", func() bool {
		nc, err := net.Dial("tcp", w.addr("receive"))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		var b [3]byte
		io.ReadFull(nc, b[:])
		return string(b[:]) == "220"
	})

	w = open(t, func(c *Config) { c.MaxConnections = 1 })
	dial(t, w.addr("submission"))
	nc, err := net.Dial("tcp", w.addr("receive"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if b, _ := io.ReadAll(nc); !strings.HasPrefix(string(b), "421 4.7.0") {
		t.Fatalf("%q", b)
	}
}

func TestLimitsOfAccountAndRecipients(t *testing.T) {
	w := open(t, func(c *Config) {
		c.AccountMessagesPerMinute, c.AccountRecipientsPerHour, c.MaxRecipients = 2, 3, 100
	})
	c := dial(t, w.addr("submission"))
	c.say("EHLO c.test", "250")
	c.say("STARTTLS", "220")
	c.tls()
	c.say("EHLO c.test", "250")
	c.say("AUTH PLAIN AGFubkBleGFtcGxlLnRlc3QAc2VjcmV0LWFubg==", "235")
	c.say("MAIL FROM:<ann@example.test>", "250")
	for range 3 {
		c.say("RCPT TO:<bob@example.test>", "250")
	}
	c.say("RCPT TO:<bob@example.test>", "450 4.7.1")
	c.say("RSET", "250")
	c.say("MAIL FROM:<ann@example.test>", "250")
	c.say("RSET", "250")
	c.say("MAIL FROM:<ann@example.test>", "450 4.7.1")

	c = dial(t, w.addr("receive"))
	c.say("EHLO c.test", "250")
	c.say("MAIL FROM:<>", "250")
	for range 100 {
		c.say("RCPT TO:<bob@example.test>", "250")
	}
	c.say("RCPT TO:<bob@example.test>", "452 4.5.3")
	c.say("DATA", "354")
	c.write(".\r\n")
	c.hear("250")
}

// S1, F9: silence and slowness end; others are served meanwhile.
func TestSlowClients(t *testing.T) {
	w := open(t, func(c *Config) {
		c.CommandTimeout, c.DataTimeout = conf.Duration(100*time.Millisecond), conf.Duration(200*time.Millisecond)
		c.HandshakeTimeout = conf.Duration(100 * time.Millisecond)
	})
	silent := dial(t, w.addr("receive"))
	drip := dial(t, w.addr("receive"))
	tlsSilent := dial(t, w.addr("receive"))
	tlsSilent.say("STARTTLS", "220")
	data := dial(t, w.addr("receive"))
	data.write("HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n")
	for _, want := range []string{"250", "250", "250", "354"} {
		data.hear(want)
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() { // single bytes, each in time, but never a line or a message
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				drip.nc.Write([]byte("x"))
				data.nc.Write([]byte("x"))
			case <-stop:
				return
			}
		}
	}()
	silent.hear("421 4.4.2")
	silent.closed()
	drip.hear("421 4.4.2")
	tlsSilent.closed()
	data.hear("421 4.4.2")
	if n := len(w.queue.mailbox("ann")); n != 0 {
		t.Fatal("half a message was kept")
	}
}

// The server stops: idle clients are told at once, a message under way is
// finished.
func TestDrain(t *testing.T) {
	w := open(t, nil)
	w.queue.block, w.queue.arrived = make(chan struct{}), make(chan struct{}, 1)
	idle, busy := dial(t, w.addr("receive")), dial(t, w.addr("receive"))
	handshaking, err := net.Dial("tcp", w.addr("submissions"))
	if err != nil {
		t.Fatal(err)
	}
	defer handshaking.Close()
	busy.write("HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n.\r\n")
	<-w.queue.arrived
	stopped := make(chan struct{})
	go func() {
		w.stop()
		close(stopped)
	}()
	idle.hear("421 4.3.2")
	idle.closed()
	if _, err := net.Dial("tcp", w.addr("receive")); err == nil {
		t.Error("still listening")
	}
	close(w.queue.block)
	for _, want := range []string{"250", "250", "250", "354", "250", "421 4.3.2"} {
		busy.hear(want)
	}
	<-stopped
}

// A message that cannot be finished does not hold up the stop for ever, and is
// not confirmed.
func TestDrainByForce(t *testing.T) {
	w := open(t, func(c *Config) { c.DrainTimeout = conf.Duration(50 * time.Millisecond) })
	w.queue.block, w.queue.arrived = make(chan struct{}), make(chan struct{}, 1)
	c := dial(t, w.addr("receive"))
	c.write("HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n.\r\n")
	<-w.queue.arrived
	w.stop()
	b, _ := io.ReadAll(c.r)
	if bytes.Contains(b, []byte("Kept as")) {
		t.Fatalf("%q", b)
	}
}

func TestProxyProtocol(t *testing.T) {
	w := open(t, func(c *Config) { c.Receive.ProxyFrom = []string{"127.0.0.0/8"} })
	header := func(version byte) *pp.Header {
		return &pp.Header{Version: version, Command: pp.PROXY, TransportProtocol: pp.TCPv4,
			SourceAddr:      &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1234},
			DestinationAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25}}
	}
	nc, err := net.Dial("tcp", w.addr("receive"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := header(2).WriteTo(nc); err != nil {
		t.Fatal(err)
	}
	io.WriteString(nc, "HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n.\r\nQUIT\r\n")
	io.Copy(io.Discard, nc)
	if got := w.queue.mailbox("ann"); len(got) != 1 || !strings.Contains(got[0], "from c ([192.0.2.7])") {
		t.Fatalf("%q", got)
	}
	for _, bad := range []func(io.Writer){
		func(c io.Writer) { header(1).WriteTo(c) },
		func(c io.Writer) { io.WriteString(c, "HELO c\r\n") },
	} {
		nc, err := net.Dial("tcp", w.addr("receive"))
		if err != nil {
			t.Fatal(err)
		}
		bad(nc)
		if b, _ := io.ReadAll(nc); strings.Contains(string(b), "250") {
			t.Errorf("served without a right header: %q", b)
		}
		nc.Close()
	}
}

// P9: what all clients together can make the server hold is bounded.
func TestMemoryIsBounded(t *testing.T) {
	const clients = 200
	w := open(t, func(c *Config) {
		c.MessageMemory, c.MaxMessageBytes = 8<<20, 4<<20
	})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var all []*client
	for i := range clients {
		c := dial(t, w.addr("receive"))
		all = append(all, c)
		if i%2 == 0 {
			c.write(strings.Repeat("x", 60000)) // a line without an end
			continue
		}
		c.write("HELO c\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n")
		for _, want := range []string{"250", "250", "250", "354"} {
			c.hear(want)
		}
		c.write(strings.Repeat(strings.Repeat("y", 998)+"\r\n", 200))
	}
	eventually(t, "memory is used up or all is read", func() bool { return w.memory.used.Load() > 7<<20 })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if w.memory.used.Load() > 8<<20 {
		t.Fatal("budget exceeded:", w.memory.used.Load())
	}
	// 8 MiB of messages, 200 connections with a block of 32 KiB and their stacks.
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 40<<20 {
		t.Fatal("heap grew by", grown)
	}
	full := 0
	for i, c := range all {
		if i%2 == 0 {
			c.write(strings.Repeat("x", 10000))
			c.hear("500 5.5.2")
			continue
		}
		c.write(".\r\n")
		line, err := c.r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "452 4.3.1") {
			full++
		}
	}
	if full == 0 {
		t.Fatal("nobody was turned away")
	}
	eventually(t, "all is given back", func() bool { return w.memory.used.Load() == 0 })
}

func TestValidate(t *testing.T) {
	good := Default()
	good.Hostname = "mx.example.test"
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Hostname = "a b" }, "hostname"},
		{func(c *Config) { c.Postmaster = "x" }, "postmaster"},
		{func(c *Config) { c.MaxRecipients = 99 }, "want 100"},
		{func(c *Config) { c.MessageMemory = 1 << 20 }, "max_message_bytes"},
		{func(c *Config) { c.MaxMessageBytes = 1 }, "max_message_bytes 1"},
		{func(c *Config) { c.MaxMessageBytes = 100<<20 + 1 }, "to 104857600"},
		{func(c *Config) { c.Receive.Listen = []string{"25"} }, "for example :25"},
		{func(c *Config) { c.Submission.ProxyFrom = []string{"lb1"} }, "want a network"},
		{func(c *Config) { c.DataTimeout = -1 }, "data_timeout"},
		{func(c *Config) { c.MaxErrors = -1 }, "max_errors"},
	} {
		cfg := good
		c.change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("want %q: %v", c.want, err)
		}
	}
	good.Submission.Listen = []string{":0"}
	if _, err := New(good, Deps{}); !kind.Is(err, kind.Invalid) {
		t.Error("a door for users without a certificate:", err)
	}
}

func TestMetricsRegister(t *testing.T) {
	cfg := Default()
	cfg.Hostname = "mx.example.test"
	if _, err := New(cfg, Deps{Metrics: prometheus.NewPedanticRegistry()}); err != nil {
		t.Fatal(err)
	}
}

func TestNetwork(t *testing.T) {
	for in, want := range map[string]string{"192.0.2.1": "192.0.2.1/32", "2001:db8::1": "2001:db8::/64"} {
		if got := network(netip.MustParseAddr(in)).String(); got != want {
			t.Error(in, got)
		}
	}
}
