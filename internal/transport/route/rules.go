package route

import (
	"fmt"
	"mime"
	netmail "net/mail"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// facts are what conditions ask of a message, found out once where one asks.
type facts struct {
	senders []mail.Address
	asked   bool
	parts   []message.Part
	walked  bool
}

// rules asks the rules of the sender's and of the recipient's organization
// about a recipient that the envelope names. Decided: the row was.
func (r *run) rules(it *item) (decided bool) {
	if r.internal() {
		return false
	}
	from := r.q.Message.Origin.Organization
	var to org.OrganizationID
	if it.dest != nil {
		to = it.dest.Organization
	}
	for _, o := range []org.OrganizationID{from, to} {
		if o != "" && !slices.Contains(r.orgs, o) {
			r.orgs = append(r.orgs, o) // for their journals
		}
	}
	if r.released() {
		return false
	}
	if from != "" && r.organizationRules(it, from, to) {
		return true
	}
	if to != "" && to != from && r.organizationRules(it, to, to) {
		return true
	}
	if p := r.d.Settings.Policy(from); from != "" && to != from && p.Disclaimer != "" {
		r.disclaim(it, p.Disclaimer)
	}
	return false
}

// organizationRules asks the rules of one organization, in their order.
func (r *run) organizationRules(it *item, o, to org.OrganizationID) (decided bool) {
	for _, rule := range r.d.Settings.Rules(o) {
		if rule.Disabled || rule.Organization != o || !r.holds(&rule, it, to) {
			continue
		}
		r.out.Why = append(r.out.Why, fmt.Sprintf("row %d: rule %s/%s: %s", it.root, o, rule.Name, rule.Action))
		if r.act(&rule, it, o, to) {
			return true
		}
		if rule.Stop {
			break
		}
	}
	return false
}

// holds tells whether all conditions of a rule hold.
func (r *run) holds(rule *settings.Rule, it *item, to org.OrganizationID) bool {
	m := &r.q.Message
	switch {
	case rule.Sender != "" && !slices.ContainsFunc(r.senders(), func(a mail.Address) bool { return matches(rule.Sender, a) }):
		return false
	case rule.Recipient != "" && !matches(rule.Recipient, it.address) && (it.dest == nil || !matches(rule.Recipient, it.dest.Address)):
		return false
	case rule.LargerThan > 0 && m.Size <= rule.LargerThan:
		return false
	case rule.Outside == "from" && m.Origin.Organization == rule.Organization:
		return false
	case rule.Outside == "to" && to == rule.Organization:
		return false
	case rule.Authentication != "" && r.dmarc() != rule.Authentication:
		return false
	case rule.Header != "" && !r.headerHas(rule.Header, rule.Contains):
		return false
	case rule.Attachment != "" && !r.attached(rule.Attachment):
		return false
	}
	return true
}

// matches tells whether a condition, an address or @domain, means an address.
func matches(cond string, a mail.Address) bool {
	if domain, ok := strings.CutPrefix(cond, "@"); ok {
		name, err := mail.NormalizeDomain(domain)
		return err == nil && name == a.Domain
	}
	want, err := mail.ParseAddress(cond)
	return err == nil && want.Key() == a.Key()
}

// senders are those of the envelope and of the From fields.
func (r *run) senders() []mail.Address {
	if r.facts.asked {
		return r.facts.senders
	}
	r.facts.asked = true
	out := []mail.Address{r.from}
	for _, f := range r.survey.From {
		list, err := netmail.ParseAddressList(f)
		if err != nil {
			continue
		}
		for _, l := range list {
			if a, err := mail.ParseAddress(l.Address); err == nil {
				out = append(out, a)
			}
		}
	}
	r.facts.senders = out
	return out
}

// dmarc is the result our door wrote, empty where there is none.
func (r *run) dmarc() string {
	for _, a := range r.survey.AuthResults {
		if !slices.Contains(r.d.Hosts, a.Server) {
			continue
		}
		for part := range strings.SplitSeq(a.Value, ";") {
			if rest, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(part)), "dmarc="); ok {
				word, _, _ := strings.Cut(rest, " ")
				return word
			}
		}
	}
	return ""
}

// headerHas tells whether a field of a name contains a text.
func (r *run) headerHas(name, text string) bool {
	dec := mime.WordDecoder{}
	text = strings.ToLower(text)
	for _, f := range message.Named(r.q.Body, name) {
		v := f.Value(r.q.Body)
		if d, err := dec.DecodeHeader(v); err == nil {
			v = d
		}
		if strings.Contains(strings.ToLower(v), text) {
			return true
		}
	}
	return false
}

// attached tells whether a part has a name with an extension.
func (r *run) attached(extension string) bool {
	if !r.facts.walked {
		r.facts.parts, _ = message.Parts(r.q.Body)
		r.facts.walked = true
	}
	suffix := "." + strings.ToLower(extension)
	for _, p := range r.facts.parts {
		for _, n := range p.Names {
			if strings.HasSuffix(strings.ToLower(strings.TrimRight(n, " .")), suffix) {
				return true
			}
		}
	}
	return false
}

// act does what a rule says. Decided: nothing more is asked about the row.
func (r *run) act(rule *settings.Rule, it *item, o, to org.OrganizationID) (decided bool) {
	switch rule.Action {
	case "reject":
		text := rule.Text
		if text == "" {
			text = "The message is refused by a rule of the organization"
		}
		c := returned(550, "5.7.1", text)
		c.Org = o
		r.give(*it, c)
		return true
	case "quarantine":
		r.give(*it, queue.RowChange{State: queue.StateQuarantined, Status: "2.0.0", Text: "rule " + rule.Name, Org: o})
		return true
	case "redirect", "bcc":
		target, err := mail.ParseAddress(rule.Target)
		if err != nil {
			return false
		}
		next := r.child(*it, queue.WhyRule, target)
		next.org = o
		if rule.Action == "bcc" {
			next.notify = "NEVER"
			r.extra = append(r.extra, next)
			return false
		}
		r.expanded(*it, o)
		r.moved[it.root] = []item{next}
		return true
	case "header":
		if f, err := message.TextField(rule.AddName, rule.AddValue); err == nil {
			it.edits = append(it.edits, edit{field: f})
		}
	case "disclaimer":
		if to != o {
			r.disclaim(it, rule.Text)
		}
	}
	return false
}
