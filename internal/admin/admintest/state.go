package admintest

import (
	"context"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/postern-mail/postern/internal/admin/api"
	"github.com/postern-mail/postern/internal/admin/audit"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// State is agreed state of one process.
type State struct {
	mu   sync.Mutex // guards all
	keys map[string][]byte
	lost bool
}

// NewState returns an empty state.
func NewState() *State { return &State{keys: map[string][]byte{}} }

// LoseQuorum makes writes fail, or work again.
func (s *State) LoseQuorum(lost bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = lost
}

// Write implements audit.State.
func (s *State) Write(ctx context.Context, w []audit.Write) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.lost {
		return kind.Errorf(kind.Busy, "the group has no quorum")
	}
	for _, one := range w {
		if one.Value == nil {
			delete(s.keys, one.Key)
		} else {
			s.keys[one.Key] = one.Value
		}
	}
	return nil
}

// Prefix implements audit.State.
func (s *State) Prefix(p string) iter.Seq2[string, []byte] {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := maps.Clone(s.keys)
	names := slices.Sorted(maps.Keys(now))
	return func(yield func(string, []byte) bool) {
		for _, k := range names {
			if strings.HasPrefix(k, p) && !yield(k, now[k]) {
				return
			}
		}
	}
}

// Get implements api.State.
func (s *State) Get(key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.keys[key]
	return v, ok
}

// Accounts are people with passwords.
type Accounts struct {
	mu       sync.Mutex // guards all
	accounts map[string]api.Account
	password map[string]string
	tries    int
}

// NewAccounts makes one account for each role in each of the organizations
// "red" and "blue" (login role@red), and the server administrator "root". All
// have the password "open sesame".
func NewAccounts() *Accounts {
	a := &Accounts{accounts: map[string]api.Account{}, password: map[string]string{}}
	for _, o := range []org.OrganizationID{"red", "blue"} {
		for _, r := range []command.Role{command.OrganizationAdmin, command.HelpDesk, command.Auditor} {
			a.Set(api.Account{Login: string(r) + "@" + string(o), Organization: o, Roles: []command.Role{r}}, "open sesame")
		}
		a.Set(api.Account{Login: "nobody@" + string(o), Organization: o}, "open sesame")
	}
	a.Set(api.Account{Login: "root", ServerAdmin: true}, "open sesame")
	a.Set(api.Account{Login: "auditor", Roles: []command.Role{command.Auditor}}, "open sesame")
	return a
}

// Set makes or changes an account.
func (a *Accounts) Set(acc api.Account, password string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.accounts[acc.Login], a.password[acc.Login] = acc, password
}

// Remove takes an account away.
func (a *Accounts) Remove(login string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.accounts, login)
}

// Tries tells how many passwords were checked.
func (a *Accounts) Tries() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.tries
}

// Authenticate implements api.Authenticator.
func (a *Accounts) Authenticate(_ context.Context, login, password, _ string, _ netip.Addr) (api.Account, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tries++
	acc, ok := a.accounts[login]
	if !ok || a.password[login] != password {
		return api.Account{}, kind.Errorf(kind.Denied, "login or password is wrong")
	}
	return acc, nil
}

// Account implements api.Authenticator.
func (a *Accounts) Account(_ context.Context, login string) (api.Account, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	acc, ok := a.accounts[login]
	if !ok {
		return api.Account{}, kind.Errorf(kind.NotFound, "account %s", login)
	}
	return acc, nil
}

// OrganizationOf knows the domains red.test and blue.test.
func OrganizationOf(scope, value string) (org.OrganizationID, bool) {
	if scope == command.ScopeAddress {
		_, value, _ = strings.Cut(value, "@")
	}
	id, ok := strings.CutSuffix(value, ".test")
	return org.OrganizationID(id), ok && (id == "red" || id == "blue")
}
