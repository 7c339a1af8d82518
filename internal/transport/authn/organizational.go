package authn

import (
	"context"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Organizational finds the organizational domain of a name (RFC 9989 section
// 4.10.2). Busy: DNS did not answer. Invalid: the name cannot be asked.
func Organizational(ctx context.Context, r Resolver, name string) (string, error) {
	domain := asciiDomain(name)
	if domain == "" {
		return "", kind.Errorf(kind.Invalid, "organizational domain of %.80q: not a name", name)
	}
	sites, err := (&walker{r: r, seen: map[string]site{}}).walk(ctx, domain)
	if err != nil {
		return "", err
	}
	return organizational(domain, sites), nil
}
