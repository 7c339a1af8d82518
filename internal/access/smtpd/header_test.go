package smtpd

import (
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/message"
)

// A header is read to a limit; what lies beyond could hold a Bcc or a forged
// result, so the message is refused.
func TestEndlessHeader(t *testing.T) {
	c := &conn{srv: &Server{cfg: Config{MaxReceived: 50}}}
	for msg, want := range map[string]string{
		"From: a@x.test\r\n" + strings.Repeat("A:\r\n", message.MaxHeaderLines-1) + "\r\n":         "",
		"From: a@x.test\r\n" + strings.Repeat("A:\r\n", message.MaxHeaderLines) + "Bcc: b\r\n\r\n": "5.3.4",
		"From: a@x.test\r\nA: " + strings.Repeat("x", message.MaxHeader) + "\r\n\r\n":              "5.3.4",
	} {
		if r := c.judge(look([]byte(msg), "mx.test")); r.status != want {
			t.Errorf("%.30q: %+v", msg, r)
		}
	}
}

// BenchmarkLook reads the header of a message as it comes from the Internet.
func BenchmarkLook(b *testing.B) {
	var h strings.Builder
	for range 6 {
		h.WriteString("Received: from a.example (a.example [192.0.2.1])\r\n\tby mx.example (Postfix) with ESMTPS id 4XyZ\r\n\tfor <ann@example.test>;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n")
	}
	for _, name := range []string{"DKIM-Signature", "ARC-Seal", "ARC-Message-Signature", "X-Google-DKIM-Signature"} {
		h.WriteString(name + ": v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=s1;\r\n\th=from:to:subject:date;\r\n\tb=" + strings.Repeat("abcdefgh", 40) + "\r\n")
	}
	h.WriteString("Authentication-Results: mx.other.test;\r\n\tspf=pass smtp.mailfrom=a.example\r\nFrom: Bob <bob@a.example>\r\nTo: ann@example.test\r\nSubject: about\r\n the plan\r\n" +
		"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@a.example>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nX-Mailer: x\r\n\r\n")
	msg := []byte(h.String() + strings.Repeat("A line of the body.\r\n", 500))
	b.SetBytes(int64(h.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if s := look(msg, "mx.test"); len(s.from) != 1 {
			b.Fatal(s)
		}
	}
}
