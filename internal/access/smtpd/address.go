package smtpd

import "github.com/postern-mail/postern/internal/mail"

// mailboxOf gives the address a path or setting names.
func mailboxOf(s string) (mail.Address, error) { return mail.ParseAddress(s) }
