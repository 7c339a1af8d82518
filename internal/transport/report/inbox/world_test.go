package inbox

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// box is a mailbox in memory that gives two messages and 1,000 bytes at a time.
type box struct {
	messages []mail.Message
	bodies   [][]byte
}

func (b *box) add(at time.Time, body []byte) {
	n := len(b.bodies) + 1
	b.messages = append(b.messages, mail.Message{UID: mail.UID(n), Blob: mail.BlobID(n), Size: int64(len(body)), InternalDate: at.UnixNano()})
	b.bodies = append(b.bodies, body)
}

func (b *box) Folders(context.Context, org.MailboxRef) ([]mail.Folder, error) {
	return []mail.Folder{{ID: 7, Name: "Sent"}, {ID: 1, Name: "INBOX"}}, nil
}

func (b *box) Search(_ context.Context, _ org.MailboxRef, r mail.SearchRequest) (out mail.Found, err error) {
	for _, m := range b.messages {
		if r.Folder == 1 && m.Time().Unix() >= r.Criteria.Since {
			out.UIDs = append(out.UIDs, m.UID)
		}
	}
	return out, nil
}

func (b *box) Messages(_ context.Context, _ org.MailboxRef, r mail.MessagesRequest) (out mail.Messages, err error) {
	for _, m := range b.messages {
		if !slices.ContainsFunc(r.UIDs, func(u mail.UIDRange) bool { return u.First <= m.UID && m.UID <= u.Last }) {
			continue
		}
		if len(out.Messages) == 2 {
			out.More = true
			break
		}
		out.Messages = append(out.Messages, m)
	}
	return out, nil
}

func (b *box) Body(_ context.Context, _ org.MailboxRef, r mail.BodyRequest) ([]byte, error) {
	if r.Blob == 0 || int(r.Blob) > len(b.bodies) {
		return nil, kind.Errorf(kind.NotFound, "no such blob")
	}
	body := b.bodies[r.Blob-1][r.Offset:]
	return body[:min(len(body), int(r.Length), 1000)], nil
}

// letter is a message with an attachment.
func letter(mediaType, name string, data []byte) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "From: <x@reporter.example>\r\nSubject: Report Domain: example.com\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"+
		"--b\r\nContent-Type: text/plain\r\n\r\nhello\r\n--b\r\nContent-Type: %s\r\nContent-Disposition: attachment; filename=\"%s\"\r\n"+
		"Content-Transfer-Encoding: base64\r\n\r\n", mediaType, name)
	text := base64.StdEncoding.EncodeToString(data)
	for len(text) > 0 {
		n := min(len(text), 76)
		b.WriteString(text[:n] + "\r\n")
		text = text[n:]
	}
	b.WriteString("--b--\r\n")
	return b.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(t testing.TB, files ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for i := 0; i < len(files); i += 2 {
		w, err := z.Create(files[i])
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// aggregate is a report as an old sender writes it.
func aggregate(reporter, id string) string {
	return `<?xml version="1.0" encoding="us-ascii"?>
<feedback><report_metadata><org_name> ` + reporter + `</org_name><email>a@b.example</email><report_id>` + id + `</report_id>
<date_range><begin>1795132800</begin><end>1795219199</end></date_range></report_metadata>
<policy_published><domain>Example.com</domain><adkim>r</adkim><p>none</p><sp>none</sp><pct>100</pct></policy_published>
<record><row><source_ip>192.0.2.1</source_ip><count>5</count><policy_evaluated><disposition>none</disposition><dkim>pass</dkim><spf>fail</spf></policy_evaluated></row>
<identifiers><header_from>example.com</header_from></identifiers><auth_results><spf><domain>x.example</domain><result>fail</result></spf></auth_results></record>
<record><row><source_ip>2001:db8::1</source_ip><count>2</count><policy_evaluated><disposition>reject</disposition><dkim>fail</dkim><spf>fail</spf></policy_evaluated></row>
<identifiers><header_from>example.com</header_from></identifiers><auth_results/></record></feedback>`
}

const modern = `<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0" xmlns:x="http://ext.example/"><version>1.0</version>
<report_metadata><org_name>two.example</org_name><email>a@two.example</email><report_id>m1</report_id><date_range><begin>1795219200</begin><end>1795305599</end></date_range></report_metadata>
<policy_published><domain>example.com</domain><discovery_method>treewalk</discovery_method><p>quarantine</p><testing>n</testing></policy_published>
<extension><x:thing><x:deep/></x:thing></extension>
<record><row><source_ip>192.0.2.1</source_ip><count>3</count><policy_evaluated><disposition>pass</disposition><dkim>pass</dkim><spf>pass</spf></policy_evaluated></row>
<identifiers><header_from>example.com</header_from></identifiers><auth_results><dkim><domain>example.com</domain><selector>s</selector><result>pass</result></dkim></auth_results><x:more>1</x:more></record></feedback>`

const tlsSample = `{"organization-name":"Company-X","date-range":{"start-datetime":"2026-11-20T00:00:00Z","end-datetime":"2026-11-20T23:59:59Z"},
"contact-info":"sts-reporting@company-x.example","report-id":"5065427c","policies":[{"policy":{"policy-type":"sts","policy-string":["version: STSv1"],
"policy-domain":"Example.com","mx-host":["*.mail.example.com"]},"summary":{"total-successful-session-count":5326,"total-failure-session-count":303},
"failure-details":[{"result-type":"certificate-expired","sending-mta-ip":"2001:db8::1","receiving-mx-hostname":"mx1.example.com","failed-session-count":100},
{"result-type":"starttls-not-supported","receiving-mx-hostname":"mx2.example.com","failed-session-count":200,"additional-information":"x"}]}]}`
