package remote

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/sign"
)

const (
	// dressTime is how long signatures are used again: their time is that of
	// the first attempt.
	dressTime = time.Hour
	// maxDressed bounds the messages whose signatures are remembered.
	maxDressed = 4096
)

// dressKey: a message leaves with other fields when it is sealed.
type dressKey struct {
	id     mail.TraceID
	sealer org.OrganizationID // empty: not sealed
}

type dress struct {
	fields []byte
	until  time.Time
}

// dressed remembers the fields that were put in front of messages, so that each
// is signed once for all its destinations and attempts.
type dressed struct {
	mu  sync.Mutex
	of  map[dressKey]dress
	old []dressKey // in the order they came
}

func newDressed() *dressed { return &dressed{of: map[dressKey]dress{}} }

func (d *dressed) get(k dressKey, now time.Time) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e, ok := d.of[k]
	return e.fields, ok && now.Before(e.until)
}

func (d *dressed) put(k dressKey, fields []byte, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.of[k]; !ok {
		d.old = append(d.old, k)
	}
	d.of[k] = dress{fields, now.Add(dressTime)}
	for len(d.old) > 0 && (len(d.old) > maxDressed || !now.Before(d.of[d.old[0]].until)) {
		delete(d.of, d.old[0])
		d.old = d.old[1:]
	}
}

// load reads the message once there is somebody to take it, takes out what was
// for the mailbox only, and puts signatures in front.
func (t *trial) load(ctx context.Context) error {
	if t.senders != nil {
		return nil
	}
	body, err := t.w.Body(ctx)
	if err != nil {
		return err
	}
	body = withoutReturnPath(body)
	k := dressKey{id: t.w.Message.ID}
	if ours := t.ours(); !ours {
		if i := slices.IndexFunc(t.w.Rows, func(r queue.RecipientRow) bool { return r.Organization != "" }); i >= 0 {
			k.sealer = t.w.Rows[i].Organization
		}
	}
	now := t.a.d.Now()
	fields, ok := t.a.dressed.get(k, now)
	if !ok {
		fields, ok = t.fields(ctx, k, body, now)
	}
	if ok {
		t.a.dressed.put(k, fields, now)
	}
	t.body = body
	if len(fields) > 0 {
		t.body = slices.Concat(fields, body)
	}
	t.senders = make([]string, len(t.w.Rows))
	for i, r := range t.w.Rows {
		if t.senders[i] = t.w.Message.Envelope.From; t.a.d.Sender != nil {
			t.senders[i] = t.a.d.Sender(t.w.Message, r)
		}
	}
	return nil
}

// ours tells whether the message began here: others are only passed on.
func (t *trial) ours() bool {
	o := t.w.Message.Origin
	return o.Organization != "" || o.Door == "internal"
}

// fields makes the signatures; false: they are not to be remembered. What
// cannot be signed leaves as it is.
func (t *trial) fields(ctx context.Context, k dressKey, body []byte, now time.Time) ([]byte, bool) {
	if t.ours() {
		return t.signatures(body, now)
	}
	if k.sealer == "" || t.a.d.Sealer == nil {
		return nil, true
	}
	key, ok := t.a.d.Sealer(k.sealer)
	if !ok {
		return nil, true
	}
	chain := sign.VerifyChain(ctx, body, t.a.txt, sign.VerifyOptions{Now: now})
	set, err := sign.Seal(body, results(body, t.a.d.Hostname), key, chain, now)
	if err != nil {
		t.a.d.Log.Info("message is not sealed", "trace", t.w.Message.ID, "err", err)
	}
	return set, !kind.Is(err, kind.Busy)
}

// signatures are those of the From field's domains that have keys, but of those
// that signed already.
func (t *trial) signatures(body []byte, now time.Time) ([]byte, bool) {
	if t.a.d.Keys == nil || t.a.d.Authors == nil {
		return nil, true
	}
	authors, err := t.a.d.Authors(body)
	if err != nil {
		return nil, true // no From to sign
	}
	var keys []sign.Key
	o := t.w.Message.Origin.Organization
	for _, d := range authors {
		// A copy that a rule made of a stranger's mail is internal as well: only
		// an organization vouches for its other domains.
		if (o != "" || strings.EqualFold(d, t.a.d.Hostname)) && !signedBy(body, d) {
			keys = append(keys, t.a.d.Keys(o, d)...)
		}
	}
	if len(keys) == 0 {
		return nil, true
	}
	fields, err := sign.Sign(body, keys, sign.SignOptions{Now: now})
	if err != nil {
		t.a.d.Log.Warn("message is not signed", "trace", t.w.Message.ID, "err", err)
	}
	return fields, err == nil || kind.Is(err, kind.Invalid)
}

// txt looks up keys for the verification of chains.
func (a *Agent) txt(ctx context.Context, name string) ([]string, error) {
	txt, _, err := a.d.Resolver.TXT(ctx, name)
	return txt, err
}

// withoutReturnPath drops the field that the door put in front: it is for the
// mailbox, and the next host writes its own (RFC 5321 section 4.4).
func withoutReturnPath(body []byte) []byte {
	var end message.Ending
	for f := range message.Fields(body, &end) {
		if f.Is("Return-Path") {
			return body[f.End:]
		}
		break
	}
	return body
}

// signedBy tells whether a DKIM signature of a domain is there. Whether it
// still holds is its owner's business.
func signedBy(body []byte, domain string) bool {
	var end message.Ending
	for f := range message.Fields(body, &end) {
		if !f.Is("DKIM-Signature") {
			continue
		}
		for tag := range strings.SplitSeq(f.Value(body), ";") {
			k, v, _ := strings.Cut(tag, "=")
			if strings.TrimSpace(k) == "d" && strings.EqualFold(strings.TrimSpace(v), domain) {
				return true
			}
		}
	}
	return false
}

// results are what our door found when the message came, for the seal. It took
// out all that came in our name.
func results(body []byte, hostname string) string {
	for _, r := range message.Look(body).AuthResults {
		if strings.EqualFold(r.Server, hostname) {
			return strings.Join(strings.Fields(r.Value), " ")
		}
	}
	return hostname + "; none"
}
