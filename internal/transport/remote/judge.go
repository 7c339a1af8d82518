package remote

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/smtpc"
	"github.com/postern-mail/postern/internal/transport/deliver"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// rest is how long a destination is left alone that asked for it, and how long
// a recipient that a tenant does not know is believed to come.
const rest = 15 * time.Minute

// verdict is what an answer means.
type verdict struct {
	deliver.Result
	// misconfigured: the settings of the connector are at fault.
	misconfigured bool
}

func deferred(code uint16, status, text string) verdict {
	return verdict{Result: deliver.Result{State: queue.StateDeferred, Code: code, Status: status, Text: text}}
}

func returned(code uint16, status, text string) verdict {
	return verdict{Result: deliver.Result{State: queue.StateReturned, Code: code, Status: status, Text: text}}
}

// whole makes it the fault of the destination.
func (v verdict) whole() verdict {
	v.Whole = true
	return v
}

func (v verdict) at(host string) verdict {
	v.Host = host
	return v
}

// about is what an answer is judged by besides its own words.
type about struct {
	connector bool // the way is one that the administrator set
	kind      string
	host      string
	last      string // status of the row's last answer
}

// judge says what an answer of 4xx or 5xx to a message or a recipient means.
func judge(r smtpc.Reply, a about) verdict {
	v := verdict{Result: deliver.Result{State: queue.StateDeferred, Code: uint16(r.Code), Status: statusOf(r), Text: r.Text, Host: a.host}}
	microsoft := a.kind == settings.KindExchangeOnline
	switch {
	case v.Status == "5.7.64" && a.connector: // TenantAttribution
		v.Whole, v.misconfigured = true, true
	case v.Status == "5.4.1" && microsoft && a.last != "5.4.1":
		// The tenant's directory may not know the recipient yet: asked once more.
		v.Wait = rest
	case r.Permanent():
		v.State = queue.StateReturned
	case r.Code == 451 && between(v.Status, "4.7.", 500, 699): // Exchange Online, whoever's domain it is
		v.Slow, v.Wait = true, rest
	case v.Status == "4.2.1" && (a.kind == settings.KindGoogle || google(a.host)):
		v.Slow = true
	case r.Code == 421:
		v.Whole = true
	}
	return v
}

// statusOf is the enhanced status of an answer; hosts that give none have the
// general one of its class.
func statusOf(r smtpc.Reply) string {
	return cmp.Or(r.Status, strconv.Itoa(r.Code/100)+".0.0")
}

// between tells whether a status is prefix and a number from one to another.
func between(status, prefix string, from, to int) bool {
	s, ok := strings.CutPrefix(status, prefix)
	n, err := strconv.Atoi(s)
	return ok && err == nil && n >= from && n <= to
}

func google(host string) bool {
	host = strings.ToLower(host)
	return strings.HasSuffix(host, ".google.com") || strings.HasSuffix(host, ".googlemail.com")
}

// judgeHost says what it means that a host failed before it had the message.
// Nothing of that returns mail; a host that refuses for good may have others
// beside it, or better days.
func judgeHost(f *smtpc.Failure, a about) verdict {
	v := deferred(0, "4.4.2", f.Error()).at(a.host)
	switch {
	case f.Reply.Code != 0:
		v = judge(f.Reply, a)
		v.State = queue.StateDeferred
		v.Whole = !v.Slow
		v.misconfigured = v.misconfigured || a.connector && f.Stage == smtpc.StageAuth && f.Reply.Permanent()
		return v
	case errors.Is(f, tlspolicy.ErrUntrusted), f.Stage == smtpc.StageTLS, f.Stage == smtpc.StageSTARTTLS:
		v.Status = "4.7.5"
	case f.Stage == smtpc.StageConnect:
		v.Status = "4.4.1"
		v.misconfigured = kind.Is(f, kind.Invalid)
	case f.Stage == smtpc.StageAuth:
		v.Status = "4.7.0"
	}
	v.Whole = f.Stage != smtpc.StageBody && f.Stage != smtpc.StageDot // those may be the message's fault
	v.Slow = !v.Whole
	return v
}

// judgeMX says what it means that the hosts of a domain cannot be told.
func judgeMX(domain string, err error) verdict {
	switch {
	case errors.Is(err, dns.ErrNoMail): // RFC 7505
		return returned(556, "5.1.10", fmt.Sprintf("The domain %s takes no mail", domain))
	case kind.Is(err, kind.NotFound):
		return returned(550, "5.1.2", fmt.Sprintf("The domain %s does not exist or has no hosts for mail", domain))
	case kind.Is(err, kind.Invalid):
		return returned(550, "5.4.4", fmt.Sprintf("The records of %s for mail cannot be used: %v", domain, err))
	}
	return deferred(451, "4.4.3", fmt.Sprintf("The hosts of %s cannot be looked up: %v", domain, err)).whole()
}

// judgeAddrs is the same for the addresses of one host.
func judgeAddrs(host string, err error) verdict {
	if kind.Is(err, kind.NotFound) || kind.Is(err, kind.Invalid) {
		return returned(550, "5.4.4", fmt.Sprintf("The host %s has no address", host)).at(host)
	}
	return deferred(451, "4.4.3", fmt.Sprintf("The address of %s cannot be looked up: %v", host, err)).at(host).whole()
}

// blame joins what several hosts did into one verdict: as long as one of them
// may do better later, the message waits. Of two alike the later counts.
func blame(was *verdict, v verdict) *verdict {
	if was != nil && was.State == queue.StateDeferred && v.State == queue.StateReturned {
		return was
	}
	return &v
}
