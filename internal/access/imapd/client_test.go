package imapd

import (
	"crypto/tls"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

func (w *world) imapclient(startTLS bool, o *imapclient.Options) *imapclient.Client {
	w.t.Helper()
	if o == nil {
		o = &imapclient.Options{}
	}
	o.TLSConfig = &tls.Config{InsecureSkipVerify: true} // a certificate of this test
	dial, addr := imapclient.DialTLS, w.srv.Addrs("tls")[0].String()
	if startTLS {
		dial, addr = imapclient.DialStartTLS, w.srv.Addrs("starttls")[0].String()
	}
	c, err := dial(addr, o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	if err := c.Login("ann", "secret").Wait(); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// TestOrdinaryClient lets another implementation judge the syntax.
func TestOrdinaryClient(t *testing.T) {
	w := newWorld(t, nil)
	c := w.imapclient(true, nil)
	if err := c.Create("Работа/Q1", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	body := crlf(nested)
	app := c.Append("Работа/Q1", int64(len(body)), &imap.AppendOptions{Flags: []imap.Flag{imap.FlagFlagged}, Time: time.Unix(1e9, 0)})
	io.WriteString(app, body)
	app.Close()
	if data, err := app.Wait(); err != nil || data.UID != 1 {
		t.Fatal(data, err)
	}
	boxes, err := c.List("", "*", &imap.ListOptions{ReturnStatus: &imap.StatusOptions{NumMessages: true}}).Collect()
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, b := range boxes {
		names = append(names, fmt.Sprintf("%s=%d", b.Mailbox, *b.Status.NumMessages))
	}
	if got := strings.Join(names, " "); got != "Drafts=0 INBOX=0 Sent=0 Trash=0 Работа=0 Работа/Q1=1" {
		t.Error(got)
	}
	if _, err := c.Select("Работа/Q1", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	section := &imap.FetchItemBodySection{Part: []int{3, 2}}
	msgs, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{UID: true, Flags: true, Envelope: true, RFC822Size: true, InternalDate: true,
		BodyStructure: &imap.FetchItemBodyStructure{Extended: true}, BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil || len(msgs) != 1 {
		t.Fatal(msgs, err)
	}
	m := msgs[0]
	if m.Envelope.Subject != "nested" || m.RFC822Size != int64(len(body)) || string(m.FindBodySection(section)) != "<p>deep</p>" ||
		m.BodyStructure.MediaType() != "multipart/mixed" || m.InternalDate.Unix() != 1e9 {
		t.Errorf("%+v", m)
	}
	found, err := c.UIDSearch(&imap.SearchCriteria{Flag: []imap.Flag{imap.FlagFlagged}}, &imap.SearchOptions{ReturnAll: true, ReturnCount: true}).Wait()
	if err != nil || found.Count != 1 {
		t.Error(found, err)
	}
	if moved, err := c.Move(imap.SeqSetNum(1), "Trash").Wait(); err != nil || moved.DestUIDs.String() != "1" {
		t.Error(moved, err)
	}
	if err := c.Logout().Wait(); err != nil {
		t.Error(err)
	}
}

// TestLargeMessage goes through chunks in both directions.
func TestLargeMessage(t *testing.T) {
	w := newWorld(t, nil)
	c := w.imapclient(false, nil)
	body := "Subject: large\r\n\r\n" + strings.Repeat("0123456789abcdef", 400_000)
	app := c.Append("INBOX", int64(len(body)), nil)
	io.WriteString(app, body)
	app.Close()
	if _, err := app.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Select("INBOX", nil).Wait(); err != nil {
		t.Fatal(err)
	}
	section := &imap.FetchItemBodySection{}
	msgs, err := c.Fetch(imap.SeqSetNum(1), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{section}}).Collect()
	if err != nil || string(msgs[0].FindBodySection(section)) != body {
		t.Fatal(err)
	}
	if w.store.calls["body"] != 7 {
		t.Errorf("read in %d chunks, want 7", w.store.calls["body"])
	}
}

// TestManyMessages pages through a mailbox and acts on all of it.
func TestManyMessages(t *testing.T) {
	w := newWorld(t, nil)
	for range 2500 {
		w.append("INBOX", hello)
	}
	c := w.selected()
	if u := c.ok("FETCH 1:* FLAGS"); len(u) != 2500 {
		t.Errorf("%d responses", len(u))
	}
	if u := c.ok("UID STORE 1:1999 +FLAGS (\\Deleted)"); len(u) != 1999 {
		t.Errorf("%d responses", len(u))
	}
	if u := c.ok("EXPUNGE"); len(u) != 1999 {
		t.Errorf("%d responses", len(u))
	}
	c.want("FETCH 1,501 UID", "OK", "* 1 FETCH (UID 2000)", "* 501 FETCH (UID 2500)")
}
