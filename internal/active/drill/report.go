package drill

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Rows of drills in the agreed state.
const (
	reportPrefix  = "drills/report/"
	measurePrefix = "drills/measure/"
	// headKey names the newest report and its sum: whoever adds one changes it.
	headKey = "drills/head"
	// reportsKept is how many reports stay.
	reportsKept = 200
)

// Measure is what a client of one server met in one database.
type Measure struct {
	Server   org.ServerName   `json:"server" col:"MEASURED-AT"`
	Database org.DatabaseName `json:"database" col:"DATABASE"`
	Begun    time.Time        `json:"begun" col:"-"`
	Ended    time.Time        `json:"ended,omitzero" col:"-"`
	// Operations are messages written and read back, Retries the tries that failed.
	Operations int `json:"operations" col:"OPERATIONS"`
	Retries    int `json:"retries" col:"RETRIES"`
	// Longest is the longest that one operation took, first try to success.
	Longest time.Duration `json:"longest" col:"LONGEST"`
	Mean    time.Duration `json:"mean" col:"MEAN"`
	Lost    int           `json:"lost" col:"LOST"`
	Doubled int           `json:"doubled" col:"DOUBLED"`
	// Error is why nothing could be said in the end.
	Error string `json:"error,omitempty" col:"ERROR"`
}

// Step is a step of a drill as its report has it.
type Step struct {
	Step   string         `json:"step" col:"STEP"`
	Server org.ServerName `json:"server,omitempty" col:"SERVER"`
	State  org.StepState  `json:"state" col:"STATE"`
	Begun  time.Time      `json:"begun,omitzero" col:"BEGUN"`
	Took   time.Duration  `json:"took" col:"TOOK"`
	Detail string         `json:"detail,omitempty" col:"DETAIL"`
}

// Deed is what the group did by itself meanwhile: an entry of the recovery log.
type Deed struct {
	At     time.Time      `json:"at" col:"AT"`
	Server org.ServerName `json:"server" col:"SERVER"`
	Action string         `json:"action" col:"ACTION"`
	Target string         `json:"target,omitempty" col:"TARGET"`
	Cause  string         `json:"cause,omitempty" col:"CAUSE"`
	Result string         `json:"result,omitempty" col:"RESULT"`
	ID     string         `json:"id" col:"RECOVERY-LOG"`
}

// Report is what a drill found.
type Report struct {
	ID       string                    `json:"id"`
	Exercise string                    `json:"exercise"`
	Title    string                    `json:"title"`
	By       string                    `json:"by,omitempty"`
	Why      string                    `json:"why,omitempty"`
	Begun    time.Time                 `json:"begun"`
	Ended    time.Time                 `json:"ended"`
	Versions map[org.ServerName]string `json:"versions"`
	// Method says how was measured, Rule what passes.
	Method string `json:"method"`
	Rule   string `json:"rule"`
	// Before and After are the sums of the rows of servers, databases, mounts,
	// components and networks; Changed says what is otherwise afterwards.
	Before   string    `json:"rows_before"`
	After    string    `json:"rows_after"`
	Changed  []string  `json:"changed"`
	Steps    []Step    `json:"steps"`
	Deeds    []Deed    `json:"deeds"`
	Measures []Measure `json:"measures"`
	// Restored is what became of mail that was destroyed and recovered.
	Restored []Restored `json:"restored,omitempty"`
	// Failed is why the drill ended before its time, empty where it did not.
	Failed string `json:"failed,omitempty"`
	// Behind are the copies that are not in sync at the end.
	Behind []string `json:"behind,omitempty"`
	// Unavailable is the longest of all measures, Allowed what was allowed.
	Unavailable time.Duration `json:"unavailable"`
	Allowed     time.Duration `json:"allowed"`
	Lost        int           `json:"lost"`
	Doubled     int           `json:"doubled"`
	// Passed tells whether the rule was kept; Verdict says so in words.
	Passed  bool   `json:"passed"`
	Verdict string `json:"verdict"`

	// Previous is the sum of the report before this one, empty for the first.
	Previous    string         `json:"previous"`
	SignedBy    org.ServerName `json:"signed_by"`
	Certificate []byte         `json:"certificate" col:"-"`         // DER
	Signature   []byte         `json:"signature,omitempty" col:"-"` // ECDSA over the sum, ASN.1
}

// conclude fills in what follows from the measures.
func (r *Report) conclude() {
	var bad []string
	if r.Failed != "" {
		bad = append(bad, "the drill ended before its time, "+r.Failed)
	}
	for _, m := range r.Measures {
		r.Unavailable = max(r.Unavailable, m.Longest)
		r.Lost, r.Doubled = r.Lost+m.Lost, r.Doubled+m.Doubled
		if m.Error != "" {
			bad = append(bad, fmt.Sprintf("%s in %s: %s", m.Server, m.Database, m.Error))
		}
	}
	back := ""
	for _, x := range r.Restored {
		if why := x.fault(); why != "" {
			bad = append(bad, why)
		}
		back += fmt.Sprintf("; %d messages (%d bytes) that had been destroyed came back from the copy on %s within %s", x.Messages, x.Bytes, x.Copy, x.Took.Round(time.Millisecond))
	}
	if r.Exercise == Restore && len(r.Restored) == 0 {
		bad = append(bad, "no mail was destroyed to be recovered")
	}
	if len(r.Measures) == 0 {
		bad = append(bad, "nothing was measured")
	}
	if r.Lost > 0 {
		bad = append(bad, fmt.Sprintf("%d messages were lost", r.Lost))
	}
	if r.Doubled > 0 {
		bad = append(bad, fmt.Sprintf("%d messages are there twice", r.Doubled))
	}
	if r.Unavailable > r.Allowed {
		bad = append(bad, fmt.Sprintf("a client waited %s, %s were allowed", r.Unavailable.Round(time.Millisecond), r.Allowed))
	}
	if len(r.Behind) > 0 {
		bad = append(bad, "redundancy is not whole again: "+strings.Join(r.Behind, ", "))
	}
	r.Passed, r.Verdict = len(bad) == 0, "failed: "+strings.Join(bad, "; ")
	if r.Passed {
		r.Verdict = fmt.Sprintf("passed: nobody waited longer than %s, nothing was lost or doubled%s", r.Unavailable.Round(time.Millisecond), back)
	}
}

// sum is the SHA-256 of a report without its signature.
func (r Report) sum() ([32]byte, error) {
	r.Signature = nil
	b, err := json.Marshal(r)
	return sha256.Sum256(b), err
}

// Sum is that in hexadecimal digits.
func (r Report) Sum() (string, error) {
	s, err := r.sum()
	return hex.EncodeToString(s[:]), err
}

// sign puts the server's name to a report.
func (r *Report) sign(by org.ServerName, certificate []byte, key crypto.Signer) error {
	r.SignedBy, r.Certificate = by, certificate
	s, err := r.sum()
	if err != nil {
		return err
	}
	if r.Signature, err = key.Sign(rand.Reader, s[:], crypto.SHA256); err != nil {
		return fmt.Errorf("sign the report of drill %s: %w", r.ID, err)
	}
	return nil
}

// verify checks the signature of one report: made by a server of the group, with
// a certificate that was good at that time. Corrupt where it is not.
func (r Report) verify(authority *x509.Certificate) error {
	bad := func(why string) error { return kind.Errorf(kind.Corrupt, "report of drill %s: %s", r.ID, why) }
	cert, err := x509.ParseCertificate(r.Certificate)
	if err != nil {
		return bad("its certificate cannot be read")
	}
	if cert.CheckSignatureFrom(authority) != nil {
		return bad("its certificate is not of this group")
	}
	if r.Ended.Before(cert.NotBefore) || r.Ended.After(cert.NotAfter) {
		return bad("its certificate was not good when it was made")
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return bad("its certificate has a key of another kind")
	}
	s, err := r.sum()
	if err != nil || !ecdsa.VerifyASN1(key, s[:], r.Signature) {
		return bad("its signature does not fit: it was changed after it was signed")
	}
	return nil
}

// Fingerprint is the SHA-256 of the certificate that a report is signed with.
func (r Report) Fingerprint() string {
	s := sha256.Sum256(r.Certificate)
	return hex.EncodeToString(s[:])
}

// Verify checks all reports, oldest first: each signature, and that each names
// the one before it. It returns what it found as sentences, and an error of kind
// Corrupt for the first thing that is wrong. Where the oldest have been removed
// the chain begins later, and the first sentence says so.
func Verify(reports []Report, authority *x509.Certificate) ([]string, error) {
	reports = slices.Clone(reports)
	slices.SortFunc(reports, func(a, b Report) int { return strings.Compare(a.ID, b.ID) })
	var out []string
	last := ""
	for i, r := range reports {
		if err := r.verify(authority); err != nil {
			return out, err
		}
		switch {
		case i == 0 && r.Previous != "":
			out = append(out, "older reports are not kept any more: the chain begins with "+r.ID)
		case i > 0 && r.Previous != last:
			return out, kind.Errorf(kind.Corrupt, "report of drill %s does not follow that of %s: one was removed or changed", r.ID, reports[i-1].ID)
		}
		var err error
		if last, err = r.Sum(); err != nil {
			return out, err
		}
	}
	if len(reports) == 1 {
		out = append(out, fmt.Sprintf("%s is the only report: its signature is good, made by a server of this group", reports[0].ID))
	}
	if n := len(reports); n > 1 {
		out = append(out, fmt.Sprintf("all %d reports from %s to %s: each signature is good, made by a server of this group, and each report names the one before it", n, reports[0].ID, reports[n-1].ID))
	}
	return out, nil
}
