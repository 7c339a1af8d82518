package rig

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// Reader is an IMAP session.
type Reader struct{ *imapclient.Client }

// Login opens an IMAP session over TLS.
func Login(ctx context.Context, addr string, conf *tls.Config, user, password string) (Reader, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 5 * time.Second}, Config: conf}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return Reader{}, err
	}
	// A server that never answers ends the test, not the other way round.
	if err := nc.SetDeadline(time.Now().Add(5 * time.Minute)); err != nil {
		return Reader{}, err
	}
	r := Reader{imapclient.New(nc, nil)}
	if err := r.Login(user, password).Wait(); err != nil {
		r.Close()
		return Reader{}, fmt.Errorf("login of %s at %s: %w", user, addr, err)
	}
	return r, nil
}

// Subjects are those of all messages of a folder, sorted.
func (r Reader) Subjects(folder string) ([]string, error) {
	sel, err := r.Select(folder, &imap.SelectOptions{ReadOnly: true}).Wait()
	if err != nil || sel.NumMessages == 0 {
		return nil, err
	}
	all := imap.SeqSet{imap.SeqRange{Start: 1, Stop: sel.NumMessages}}
	list, err := r.Fetch(all, &imap.FetchOptions{Envelope: true}).Collect()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range list {
		out = append(out, m.Envelope.Subject)
	}
	slices.Sort(out)
	return out, nil
}

// Body is the one whole message of a folder with these words in its subject.
func (r Reader) Body(folder, subject string) ([]byte, error) {
	if _, err := r.Select(folder, &imap.SelectOptions{ReadOnly: true}).Wait(); err != nil {
		return nil, err
	}
	found, err := r.UIDSearch(&imap.SearchCriteria{Header: []imap.SearchCriteriaHeaderField{{Key: "Subject", Value: subject}}}, nil).Wait()
	if err != nil {
		return nil, err
	}
	uids := found.AllUIDs()
	if len(uids) != 1 {
		return nil, fmt.Errorf("%d messages with subject %q in %s, want 1", len(uids), subject, folder)
	}
	list, err := r.Fetch(imap.UIDSetNum(uids[0]), &imap.FetchOptions{BodySection: []*imap.FetchItemBodySection{{Peek: true}}}).Collect()
	if err != nil {
		return nil, err
	}
	if len(list) != 1 || len(list[0].BodySection) != 1 {
		return nil, fmt.Errorf("fetch of %q: %d answers", subject, len(list))
	}
	return list[0].BodySection[0].Bytes, nil
}
