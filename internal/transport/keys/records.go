package keys

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"

	"github.com/postern-mail/postern/internal/transport/settings"
)

// Facts are what the records of a domain follow from.
type Facts struct {
	Domain string
	// Hosts are the names under which servers take mail for the domain, the one
	// to be asked first in front.
	Hosts []string
	// Sources are the addresses that mail leaves from. Without any, those of the
	// hosts.
	Sources []netip.Addr
	// Includes are domains of other systems that send for this one, for SPF.
	Includes []string
	Keys     []settings.DKIMKey
	// Reports is the address for reports of others; empty: postmaster of the
	// domain.
	Reports string
	// Certificates are SHA-256 hashes of the public key (SubjectPublicKeyInfo)
	// that hosts show, for TLSA.
	Certificates map[string][32]byte
	Services     []Service
}

// Service is a door that mail programs look for (RFC 6186, RFC 8314).
type Service struct {
	Name string // imaps, submissions, ...
	Host string
	Port uint16
}

// The needs for a record.
const (
	Required    = "required"
	Recommended = "recommended"
	Optional    = "optional"
)

// Record is one that a domain should have.
type Record struct {
	Type  string `json:"type" col:"TYPE"`
	Name  string `json:"name" col:"NAME"` // without a final dot
	Value string `json:"value" col:"VALUE"`
	Need  string `json:"need" col:"NEED"`
	Why   string `json:"why" col:"-"`

	topic topic
	host  string // of MX, TLSA, SRV
	key   settings.DKIMKey
}

// topic says how a record is compared.
type topic uint8

const (
	topicMX topic = iota
	topicSPF
	topicDKIM
	topicDMARC
	topicSTS
	topicPolicy
	topicTLSRPT
	topicTLSA
	topicSRV
)

// Expect lists the records that a domain should have. It asks nobody.
func Expect(f Facts) []Record {
	var out []Record
	reports := f.Reports
	if reports == "" {
		reports = "postmaster@" + f.Domain
	}
	for i, h := range f.Hosts {
		out = append(out, Record{Type: "MX", Name: f.Domain, Value: fmt.Sprintf("%d %s.", 10*(i+1), h), Need: Required,
			Why: "Mail for the domain comes here.", topic: topicMX, host: h})
	}
	out = append(out, Record{Type: "TXT", Name: f.Domain, Value: spfRecord(f), Need: Required,
		Why: "SPF: others know which hosts send for the domain.", topic: topicSPF})
	for _, k := range f.Keys {
		out = append(out, dkimRecord(k))
	}
	if len(f.Keys) == 0 {
		out = append(out, Record{Type: "TXT", Name: "*._domainkey." + f.Domain, Need: Required, Value: "postern dkim create " + f.Domain,
			Why: "DKIM: the domain has no key, its mail is not signed.", topic: topicDKIM})
	}
	out = append(out,
		Record{Type: "TXT", Name: "_dmarc." + f.Domain, Value: "v=DMARC1; p=none; rua=mailto:" + reports, Need: Required,
			Why: "DMARC: begin with p=none, read the reports, then p=quarantine, then p=reject.", topic: topicDMARC})
	if len(f.Hosts) > 0 {
		policy := STSPolicy(f.Hosts)
		id := sha256.Sum256([]byte(policy))
		out = append(out,
			Record{Type: "TXT", Name: "_mta-sts." + f.Domain, Value: "v=STSv1; id=" + hex.EncodeToString(id[:8]), Need: Recommended,
				Why: "MTA-STS: others find the policy; a new id tells them that it changed.", topic: topicSTS},
			Record{Type: "HTTPS", Name: "https://mta-sts." + f.Domain + "/.well-known/mta-sts.txt", Value: policy, Need: Recommended,
				Why: "MTA-STS: others send to these hosts and with TLS only.", topic: topicPolicy})
	}
	out = append(out, Record{Type: "TXT", Name: "_smtp._tls." + f.Domain, Value: "v=TLSRPTv1; rua=mailto:" + reports, Need: Recommended,
		Why: "TLS-RPT: others report what went wrong with TLS.", topic: topicTLSRPT})
	for _, h := range f.Hosts {
		if sum, ok := f.Certificates[h]; ok {
			out = append(out, Record{Type: "TLSA", Name: "_25._tcp." + h, Value: "3 1 1 " + hex.EncodeToString(sum[:]), Need: Optional,
				Why: "DANE: only in a zone with DNSSEC, and to be changed before the host's key is.", topic: topicTLSA, host: h})
		}
	}
	for _, s := range f.Services {
		out = append(out, Record{Type: "SRV", Name: "_" + s.Name + "._tcp." + f.Domain, Value: fmt.Sprintf("0 1 %d %s.", s.Port, s.Host),
			Need: Optional, Why: "Mail programs find the server by themselves.", topic: topicSRV, host: s.Host})
	}
	return out
}

// spfRecord names the hosts of the domain and whoever else sends for it (RFC 7208).
func spfRecord(f Facts) string {
	var b strings.Builder
	b.WriteString("v=spf1 mx")
	for _, a := range f.Sources {
		if a = a.Unmap(); a.Is4() {
			b.WriteString(" ip4:" + a.String())
		} else {
			b.WriteString(" ip6:" + a.String())
		}
	}
	for _, d := range f.Includes {
		b.WriteString(" include:" + d)
	}
	b.WriteString(" -all")
	return b.String()
}

func dkimRecord(k settings.DKIMKey) Record {
	r := Record{Type: "TXT", Name: RecordName(k), Value: k.Public, Need: Required, Why: "DKIM: " + k.Algorithm + ", signs.", topic: topicDKIM, key: k}
	switch k.State {
	case settings.DKIMPublishing:
		r.Why = "DKIM: " + k.Algorithm + ", signs an hour after DNS answers with it."
	case settings.DKIMRetired:
		r.Need = Recommended
		r.Why = "DKIM: " + k.Algorithm + ", signs no more; may go on " + k.Since.Add(retention).UTC().Format("2006-01-02") + "."
	}
	return r
}

// STSPolicy is the MTA-STS policy for hosts (RFC 8461 section 3.2).
func STSPolicy(hosts []string) string {
	var b strings.Builder
	b.WriteString("version: STSv1\nmode: enforce\n")
	for _, h := range hosts {
		b.WriteString("mx: " + h + "\n")
	}
	b.WriteString("max_age: 604800\n")
	return b.String()
}
