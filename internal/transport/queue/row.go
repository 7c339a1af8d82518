package queue

import (
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Message is a message as the queue has it.
type Message struct {
	ID        mail.TraceID
	Size      int64
	Epoch     uint64
	Identity  [32]byte
	Received  time.Time
	Expires   time.Time
	Finished  time.Time // zero: unfinished
	Origin    mail.Origin
	Envelope  mail.Envelope
	Shadow    org.ServerName // who holds the copy, empty for nobody
	Primary   org.ServerName // whose message is held here; empty: of this server
	Queue     string         // identity of the primary's queue
	Try       uint8
	TakenFrom org.ServerName
	By        org.ServerName
	Priority  mail.Priority
	Flags     uint32
	Parent    mail.TraceID
	Fate      Fate
	Forgotten bool // the body may be gone
	Subject   string
	MessageID string
}

// RecipientRow is the ledger row: one message for one recipient.
type RecipientRow struct {
	ID             mail.TraceID
	N, Parent      uint16
	Address        string
	Original       string // as the sender wrote it (ORCPT, RFC 3461)
	Notify         string
	Why            Why // 0: named in the envelope
	Organization   org.OrganizationID
	State          State
	Dest           string
	Attempts       uint16
	Next           time.Time
	Last           time.Time
	Expires        time.Time
	Code           uint16
	Status         string
	Text           string
	Host           string
	TLS            uint8
	Mailbox        org.MailboxRef
	Duplicate      bool
	RepeatPossible bool
	Child          mail.TraceID
	Server         org.ServerName // whose message it is; empty: of this server
	Shadow         org.ServerName
}

func when(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

func (e *entry) message() Message {
	m := &e.m
	env := m.Envelope
	for i := range e.rows {
		if r := &e.rows[i]; r.Why == 0 {
			env.Recipients = append(env.Recipients, mail.EnvelopeRecipient{Address: r.Address, Notify: r.Notify, ORcpt: r.ORcpt})
		}
	}
	return Message{ID: m.ID, Size: m.Size, Epoch: m.Epoch, Identity: m.Identity, Received: when(m.Received), Expires: when(m.Expires),
		Finished: when(m.Finished), Origin: m.Origin, Envelope: env, Shadow: m.Shadow, Primary: m.Primary, Queue: m.Queue, Try: m.Try,
		TakenFrom: m.TakenFrom, By: m.By, Priority: m.Priority, Flags: m.Flags, Parent: m.Parent, Fate: m.Fate, Forgotten: m.Forgotten,
		Subject: m.Subject, MessageID: m.MessageID}
}

func (e *entry) row(n int, began org.LSN) RecipientRow {
	r, m := &e.rows[n], &e.m
	return RecipientRow{ID: m.ID, N: uint16(n), Parent: r.Parent, Address: r.Address, Original: r.ORcpt, Notify: r.Notify, Why: r.Why,
		Organization: r.Org, State: e.effective(r, began), Dest: r.Dest, Attempts: r.Attempts, Next: when(r.Next), Last: when(r.Last),
		Expires: when(m.Expires), Code: r.Code, Status: r.Status, Text: r.Text, Host: r.Host, TLS: r.TLS, Mailbox: r.Mailbox,
		Duplicate: r.Duplicate, RepeatPossible: r.Repeat, Child: r.Child, Server: m.Primary, Shadow: m.Shadow}
}
