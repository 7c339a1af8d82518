package inbox

import (
	"encoding/json"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

const (
	maxPolicies = 100
	maxFailures = 10_000
	// maxJSON bounds a TLS report in bytes: what is parsed takes much more
	// memory than its text, and such reports are small.
	maxJSON = 1 << 20
)

// tlsReport is what we take from a TLS report (RFC 8460 section 4.4).
type tlsReport struct {
	Reporter string `json:"organization-name"`
	ID       string `json:"report-id"`
	Range    struct {
		Start time.Time `json:"start-datetime"`
		End   time.Time `json:"end-datetime"`
	} `json:"date-range"`
	Policies []tlsPolicy `json:"policies"`
}

type tlsPolicy struct {
	Policy struct {
		Type   string `json:"policy-type"`
		Domain string `json:"policy-domain"`
	} `json:"policy"`
	Summary struct {
		Good   uint64 `json:"total-successful-session-count"`
		Failed uint64 `json:"total-failure-session-count"`
	} `json:"summary"`
	Failures []tlsFailure `json:"failure-details"`
}

type tlsFailure struct {
	Result string `json:"result-type"`
	Host   string `json:"receiving-mx-hostname"`
	Count  uint64 `json:"failed-session-count"`
}

// parseTLS reads a TLS report. Errors are of kind Invalid; NotFound says that
// the document is something else.
func parseTLS(doc []byte) (tlsReport, error) {
	if !strings.HasPrefix(strings.TrimSpace(string(doc[:min(len(doc), 64)])), "{") {
		return tlsReport{}, kind.Errorf(kind.NotFound, "no TLS report: it is no JSON")
	}
	if len(doc) > maxJSON {
		return tlsReport{}, kind.Errorf(kind.Invalid, "TLS report: more than %d bytes", maxJSON)
	}
	var r tlsReport
	if err := json.Unmarshal(doc, &r); err != nil {
		return tlsReport{}, kind.Errorf(kind.Invalid, "TLS report: %w", err)
	}
	if r.Reporter, r.ID = text(r.Reporter), text(r.ID); r.Reporter == "" || r.ID == "" || len(r.Policies) == 0 || len(r.Policies) > maxPolicies {
		return tlsReport{}, kind.Errorf(kind.Invalid, "TLS report: without sender or identity, or with %d policies", len(r.Policies))
	}
	n := 0
	for i := range r.Policies {
		p := &r.Policies[i]
		domain, err := mail.NormalizeDomain(p.Policy.Domain)
		if err != nil {
			return tlsReport{}, kind.Errorf(kind.Invalid, "TLS report: %w", err)
		}
		if n += len(p.Failures); n > maxFailures {
			return tlsReport{}, kind.Errorf(kind.Invalid, "TLS report: more than %d failures", maxFailures)
		}
		p.Policy.Domain, p.Policy.Type = domain, text(p.Policy.Type)
		p.Summary.Good, p.Summary.Failed = min(p.Summary.Good, maxCount), min(p.Summary.Failed, maxCount)
		for j := range p.Failures {
			f := &p.Failures[j]
			f.Result, f.Host, f.Count = text(f.Result), text(f.Host), min(f.Count, maxCount)
		}
	}
	return r, nil
}
