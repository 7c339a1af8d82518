package tlspolicy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/mail"
)

// Mode of an MTA-STS policy (RFC 8461 section 3.2).
type Mode string

// The modes. The zero value is a domain without a policy.
const (
	ModeNone    Mode = "none"
	ModeTesting Mode = "testing" // report, deliver all the same
	ModeEnforce Mode = "enforce"
)

// STS is the MTA-STS policy of a domain.
type STS struct {
	ID      string
	Mode    Mode
	MX      []string // patterns, lower case: a name, or *. and a name
	MaxAge  time.Duration
	Fetched time.Time
}

// expires is when the policy no longer holds.
func (s STS) expires() time.Time { return s.Fetched.Add(s.MaxAge) }

// Allows tells whether the policy names an MX host (RFC 8461 section 4.1): a
// * stands for exactly one label.
func (s STS) Allows(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	_, parent, _ := strings.Cut(host, ".")
	for _, p := range s.MX {
		if rest, wild := strings.CutPrefix(p, "*."); p == host || wild && rest == parent {
			return true
		}
	}
	return false
}

// Lines are the policy as its file has it (RFC 8461 section 3.2), nil where
// there is none.
func (s STS) Lines() []string {
	if s.Mode == "" {
		return nil
	}
	out := []string{"version: " + version, "mode: " + string(s.Mode)}
	for _, p := range s.MX {
		out = append(out, "mx: "+p)
	}
	return append(out, fmt.Sprintf("max_age: %d", s.MaxAge/time.Second))
}

const (
	maxPolicy   = 64 << 10 // bytes of a policy (RFC 8461 section 3.2 asks for a limit)
	maxPatterns = 500      // mx lines
	maxAge      = 31557600 // seconds, RFC 8461 section 3.2
	maxPolicyID = 32       // RFC 8461 section 3.1
	version     = "STSv1"  // of record and policy
	wellKnown   = "/.well-known/mta-sts.txt"
)

// parseRecord takes the id out of the TXT records of _mta-sts.<domain> (RFC
// 8461 section 3.1). Anything but exactly one record means that there is no
// policy.
func parseRecord(txts []string) (id string, err error) {
	found := 0
	for _, txt := range txts {
		first, rest, _ := strings.Cut(txt, ";")
		if strings.TrimRight(first, " \t") != "v="+version {
			continue
		}
		if found++; found > 1 {
			return "", errors.New("more than one MTA-STS record")
		}
		for field := range strings.SplitSeq(rest, ";") {
			key, value, _ := strings.Cut(strings.TrimSpace(field), "=")
			if key == "id" && id == "" {
				id = value
			}
		}
	}
	switch {
	case found == 0:
		return "", errNoRecord
	case id == "" || len(id) > maxPolicyID || strings.ContainsFunc(id, notAlnum):
		return "", errors.New("an MTA-STS record without a usable id")
	}
	return id, nil
}

var errNoRecord = errors.New("no MTA-STS record")

func notAlnum(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9')
}

// parsePolicy reads a policy (RFC 8461 section 3.2). Of fields that may stand
// once the first counts, unknown ones are ignored.
func parsePolicy(b []byte) (STS, error) {
	if len(b) > maxPolicy {
		return STS{}, fmt.Errorf("an MTA-STS policy of more than %d bytes", maxPolicy)
	}
	var s STS
	seen := map[string]string{}
	for line := range strings.SplitSeq(string(b), "\n") {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\r"), ":")
		if !ok {
			continue
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if key != "mx" {
			if _, again := seen[key]; !again {
				seen[key] = value
			}
			continue
		}
		if len(s.MX) == maxPatterns {
			return STS{}, fmt.Errorf("an MTA-STS policy with more than %d hosts", maxPatterns)
		}
		p, err := pattern(value)
		if err != nil {
			return STS{}, err
		}
		s.MX = append(s.MX, p)
	}
	age, err := strconv.ParseUint(seen["max_age"], 10, 32)
	s.Mode = Mode(seen["mode"])
	switch {
	case seen["version"] != version:
		return STS{}, errors.New("an MTA-STS policy of another version")
	case s.Mode != ModeNone && s.Mode != ModeTesting && s.Mode != ModeEnforce:
		return STS{}, errors.New("an MTA-STS policy without a known mode")
	case err != nil:
		return STS{}, errors.New("an MTA-STS policy without a usable max_age")
	case s.Mode != ModeNone && len(s.MX) == 0:
		return STS{}, errors.New("an MTA-STS policy without hosts")
	}
	s.MaxAge = time.Duration(min(age, maxAge)) * time.Second
	return s, nil
}

func pattern(s string) (string, error) {
	rest, wild := strings.CutPrefix(s, "*.")
	d, err := mail.NormalizeDomain(strings.TrimSuffix(rest, "."))
	if err != nil || strings.HasPrefix(d, "[") {
		return "", fmt.Errorf("an MTA-STS policy with the host %.80q", s)
	}
	if wild {
		d = "*." + d
	}
	return d, nil
}
