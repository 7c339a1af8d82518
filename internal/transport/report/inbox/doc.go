// Package inbox reads the reports that others send about our domains, out of
// the mailbox they arrive in: DMARC aggregate reports (RFC 9990, and RFC 7489
// before it) and SMTP TLS reports (RFC 8460).
//
// It keeps nothing: reports are read when somebody asks, from the mailbox that
// the question names, and stay there until somebody deletes them.
//
// It promises:
//
//  1. A report is untrusted. At most MaxPacked bytes of an attachment are
//     unpacked to at most MaxUnpacked, from one level of one archive; XML has no
//     entities but its own five, and no external ones.
//  2. One question reads at most MaxMessages messages and keeps MaxRows rows;
//     the answer says when that was not all.
//  3. A report that came twice counts once: its sender's name, domain and
//     identity tell.
//  4. Who may see an organization's mailbox is the caller's to check; the
//     commands here do.
//
// Anybody can write to such a mailbox: what reports say is what their senders
// claim. Messages that failed DMARC when they came are left out.
package inbox
