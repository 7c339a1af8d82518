package authn

import "strings"

// Result is the outcome of one method, as it is written in
// Authentication-Results (RFC 8601 section 2.7).
type Result string

// The results. SPF knows all of them, DKIM none, pass, fail, policy, neutral,
// temperror and permerror, DMARC none, pass, fail, temperror and permerror,
// ARC none, pass and fail.
const (
	None      Result = "none"
	Pass      Result = "pass"
	Fail      Result = "fail"
	SoftFail  Result = "softfail"
	Neutral   Result = "neutral"
	Policy    Result = "policy"
	TempError Result = "temperror"
	PermError Result = "permerror"
)

// SPF is the outcome of check_host for one identity (RFC 7208 section 2).
type SPF struct {
	Result Result
	// Domain is the one that was asked, in A-labels; empty if there is none.
	Domain string
	// Sender is the MAIL FROM identity; postmaster@ and the HELO name for the
	// null sender, empty for the HELO identity.
	Sender string
	Why    string // for the log and the comment, one line
}

// DKIM is the outcome of one signature (RFC 6376, results as in RFC 8601
// section 2.7.1), given by the caller.
type DKIM struct {
	Result    Result
	Domain    string // d=
	Selector  string // s=
	Identity  string // i=, empty if the signature has none
	Algorithm string // a=
	Signature string // b= without blanks; its first characters tell signatures apart (RFC 6008)
	Why       string
}

// ARC is the outcome of a chain (RFC 8617), given by the caller. The zero
// value says that nobody looked.
type ARC struct {
	Result Result
	Sets   int
	// Sealer is d= of the newest seal.
	Sealer string
	// OldestPass is the lowest instance whose message signature still
	// verifies, 0 for all (RFC 8617 section 5.2).
	OldestPass int
	// Results is the newest ARC-Authentication-Results without its instance.
	Results string
	Why     string
}

// Disposition is what the owner of a domain wants done with messages that
// fail (RFC 9989 section 4.7, tag p).
type Disposition string

// The dispositions, weakest first.
const (
	DispositionNone       Disposition = "none"
	DispositionQuarantine Disposition = "quarantine"
	DispositionReject     Disposition = "reject"
)

// weaker is the disposition one level below, which a record in test mode gets.
func (d Disposition) weaker() Disposition {
	if d == DispositionReject {
		return DispositionQuarantine
	}
	return DispositionNone
}

// rank orders dispositions by severity.
func (d Disposition) rank() int {
	switch d {
	case DispositionReject:
		return 2
	case DispositionQuarantine:
		return 1
	}
	return 0
}

// DMARC is the outcome for a message, and what it follows from. PermError with
// an empty From says that the message has no author DMARC can work with; to
// let it pass would be a way around every policy (RFC 9989 section 11.5).
type DMARC struct {
	Result Result
	From   string // author domain, in A-labels
	Org    string // organizational domain of From, empty if it was not needed
	Domain string // where the policy record was found
	Record DMARCRecord
	// Published is the policy of the record that applies to From (p, sp or np).
	Published Disposition
	// Applied is what its owner asks for this message: none unless Result is
	// Fail, one level below Published in test mode, none for a trusted chain.
	Applied     Disposition
	SPFAligned  bool   // SPF passed and is aligned
	DKIMAligned bool   // a signature passed and is aligned
	Override    string // why Applied is weaker than asked: "arc"
	Why         string
}

// Results is all that is known of a message.
type Results struct {
	MailFrom SPF
	Helo     SPF // Result is empty if it was not asked: null sender
	DKIM     []DKIM
	ARC      ARC
	DMARC    DMARC // the worst of all author domains
	Others   []DMARC
}

// clip makes s one printable line of at most 200 octets.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	if len(s) > 200 {
		s = s[:200]
	}
	return s
}
