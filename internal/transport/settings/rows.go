package settings

import (
	"net/netip"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/org"
)

// Group is what holds for all servers (transport/settings). Durations of zero
// have the default.
type Group struct {
	ShadowEnabled          *bool         `json:"shadow_enabled,omitempty" doc:"Hold each message on a second server until it is delivered." default:"true"`
	RejectOnShadowFailure  string        `json:"reject_on_shadow_failure,omitempty" doc:"What happens to a message that no second server could store: auto refuses it (451 4.4.0) while another server is up and could store it, always refuses, never accepts." default:"auto" enum:"auto,always,never"`
	ShadowPreference       string        `json:"shadow_preference,omitempty" doc:"Where the second copy goes." default:"prefer_remote" enum:"prefer_remote,remote_only,local_only"`
	RetriesRemoteSite      int           `json:"retries_remote_site,omitempty" doc:"Servers of other sites that are tried for the second copy." default:"4"`
	RetriesLocalSite       int           `json:"retries_local_site,omitempty" doc:"Servers of this site that are tried for the second copy." default:"2"`
	ShadowTimeout          conf.Duration `json:"shadow_timeout,omitempty" doc:"How long one of them is waited for." default:"2s"`
	AcceptTimeout          conf.Duration `json:"accept_timeout,omitempty" doc:"How long all of them are waited for." default:"30s"`
	ShadowHeartbeat        conf.Duration `json:"shadow_heartbeat,omitempty" doc:"How often a shadow compares what it holds with the server it holds it for." default:"2m"`
	TakeoverAfter          conf.Duration `json:"takeover_after,omitempty" doc:"How long a server is dead before its messages are taken over." default:"2s"`
	InDoubtWait            conf.Duration `json:"in_doubt_wait,omitempty" doc:"How long a message whose delivery to a remote host was cut short waits for the server that tried, before another server tries again." default:"5m"`
	AutoDiscardInterval    conf.Duration `json:"auto_discard_interval,omitempty" doc:"How long a server that is away is still owed word of what became of its copies." default:"48h"`
	HoldTime               conf.Duration `json:"hold_time,omitempty" doc:"How long Safety Net keeps a delivered message." default:"48h"`
	MessageExpiration      conf.Duration `json:"message_expiration,omitempty" doc:"How long delivery is tried before the message is returned." default:"48h"`
	SafetyNetMargin        conf.Duration `json:"safetynet_margin,omitempty" doc:"By how much a request reaches beyond its interval, for clocks that differ." default:"10m"`
	SafetyNetShadowAfter   conf.Duration `json:"safetynet_shadow_after,omitempty" doc:"How long a server is away before the holders of its copies answer a request for it." default:"15s"`
	DelayNotice            conf.Duration `json:"delay_notice,omitempty" doc:"When the sender is told that a message is delayed." default:"4h"`
	FullRetry              conf.Duration `json:"full_retry,omitempty" doc:"How long a full mailbox is tried before the message is returned." default:"24h"`
	MaxRecipientsExpanded  int           `json:"max_recipients_expanded,omitempty" doc:"Recipients of one message after groups are expanded." default:"10000"`
	TraceRetention         conf.Duration `json:"trace_retention,omitempty" doc:"How long message trace knows a finished message." default:"336h"`
	Greylist               bool          `json:"greylist,omitempty" doc:"Defer the first message of a stranger without any good mark."`
	GreylistDelay          conf.Duration `json:"greylist_delay,omitempty" doc:"How long it is deferred." default:"2m"`
	DNSBL                  []string      `json:"dnsbl,omitempty" doc:"Block lists to ask, each as zone or zone=weight; a client whose weights reach 10 is refused. Without a weight it is 10."`
	DMARCEnforce           *bool         `json:"dmarc_enforce,omitempty" doc:"Do with a message that fails DMARC what the domain asks for." default:"true"`
	DMARCReports           *bool         `json:"dmarc_reports,omitempty" doc:"Send aggregate reports to domains that ask for them." default:"true"`
	TLSReports             *bool         `json:"tls_reports,omitempty" doc:"Send TLS reports to domains that ask for them." default:"true"`
	ARCTrusted             []string      `json:"arc_trusted,omitempty" doc:"Domains whose ARC seals count."`
	SpamScanFail           string        `json:"spam_scan_fail,omitempty" doc:"What happens while the spam scanner does not answer." default:"open" enum:"open,closed"`
	MalwareScanFail        string        `json:"malware_scan_fail,omitempty" doc:"What happens while the malware scanner does not answer." default:"closed" enum:"open,closed"`
	OutboundAccountPerHour int           `json:"outbound_account_per_hour,omitempty" doc:"Recipients elsewhere that one account may write to in an hour; beyond, its mail waits for an administrator." default:"1000"`
	OutboundAccountPerDay  int           `json:"outbound_account_per_day,omitempty" doc:"The same in a day." default:"5000"`
	ConnectionsPerMinute   int           `json:"connections_per_minute,omitempty" doc:"Connections from strangers of one network (/24, /64) in a minute." default:"300"`
	SmartHost              string        `json:"smart_host,omitempty" doc:"host[:port] that all mail for the Internet goes through. Empty: directly to the recipients' servers."`
}

// Policy is what an organization decided (transport/policy/<organization>).
type Policy struct {
	Organization      org.OrganizationID `json:"organization"`
	SpamAction        string             `json:"spam_action,omitempty" doc:"What happens to mail the scanner calls spam." default:"quarantine" enum:"mark,quarantine,reject"`
	MalwareAction     string             `json:"malware_action,omitempty" doc:"What happens to malware." default:"reject" enum:"quarantine,reject"`
	Attachments       []AttachmentRule   `json:"attachments,omitempty"`
	QuarantineDays    int                `json:"quarantine_days,omitempty" doc:"How long quarantine keeps a message." default:"30"`
	QuarantineDigest  bool               `json:"quarantine_digest,omitempty" doc:"Tell people once a day what waits for them in quarantine."`
	MessagesPerMinute int                `json:"messages_per_minute,omitempty" doc:"Messages the organization may send in a minute." default:"0 (no limit)"`
	Concurrency       int                `json:"concurrency,omitempty" doc:"Deliveries of its messages at a time." default:"0 (no limit)"`
	MaxMessage        int64              `json:"max_message,omitempty" doc:"Bytes of a message." default:"0 (as the server)"`
	Journal           string             `json:"journal,omitempty" doc:"Address that gets a copy of each message."`
	Disclaimer        string             `json:"disclaimer,omitempty" doc:"Text below each message that leaves the organization."`
}

// AttachmentRule says what happens to a kind of attachment.
type AttachmentRule struct {
	Extension string `json:"extension,omitempty"` // of the file name, without the dot
	Type      string `json:"type,omitempty"`      // media type, or its first half with /*
	Action    string `json:"action"`              // reject, quarantine
}

// The directions and kinds of a connector.
const (
	DirectionIn   = "in"
	DirectionOut  = "out"
	DirectionBoth = "both"

	KindExchangeOnline = "exchange-online"
	KindGoogle         = "google"
	KindSMTP           = "smtp"
)

// Connector is a way to or from another mail system
// (transport/connectors/<organization>/<name>).
type Connector struct {
	Name              string             `json:"name"`
	Organization      org.OrganizationID `json:"organization"`
	Enabled           bool               `json:"enabled"`
	Direction         string             `json:"direction"`
	Kind              string             `json:"kind"`
	Hosts             []string           `json:"hosts,omitempty"` // looked up at each connect
	Port              int                `json:"port,omitempty"`  // 25
	IPv4Only          bool               `json:"ipv4_only,omitempty"`
	TLS               string             `json:"tls,omitempty"`         // required (default), opportunistic
	VerifyName        string             `json:"verify_name,omitempty"` // of the host's certificate; empty: the host's name
	CA                string             `json:"ca,omitempty"`          // PEM; empty: the system's
	ClientCertificate string             `json:"client_certificate,omitempty"`
	User              string             `json:"user,omitempty"`
	Password          []byte             `json:"password,omitempty"`          // sealed
	Domains           []string           `json:"domains,omitempty"`           // recipients that go out here, without a route of their own
	Networks          []netip.Prefix     `json:"networks,omitempty"`          // it comes in from
	CertificateNames  []string           `json:"certificate_names,omitempty"` // it comes in with
	Concurrency       int                `json:"concurrency,omitempty"`
	PerMinute         int                `json:"per_minute,omitempty"`
	MaxMessage        int64              `json:"max_message,omitempty"`
}

// The states of a DKIM key.
const (
	DKIMPublishing = "publishing" // its record is not seen in DNS yet
	DKIMSigning    = "signing"
	DKIMRetired    = "retired" // its record stays for messages on their way
)

// DKIMKey signs for a domain (transport/dkim/<domain>/<selector>).
type DKIMKey struct {
	Domain    string    `json:"domain"`
	Selector  string    `json:"selector"`
	Algorithm string    `json:"algorithm"` // rsa-2048, ed25519
	Sealed    []byte    `json:"sealed"`    // PKCS #8, sealed
	Public    string    `json:"public"`    // the TXT record
	State     string    `json:"state"`
	Created   time.Time `json:"created"`
	Since     time.Time `json:"since"` // of the state
}

// Rule is a transport rule (transport/rules/<organization>/<name>). All
// conditions that are there have to hold; texts match as parts and without
// case.
type Rule struct {
	Name         string             `json:"name"`
	Organization org.OrganizationID `json:"organization"`
	Priority     int                `json:"priority"` // smaller is first
	Disabled     bool               `json:"disabled,omitempty"`

	Sender         string `json:"sender,omitempty"`    // address or @domain
	Recipient      string `json:"recipient,omitempty"` // address or @domain
	Header         string `json:"header,omitempty"`    // name
	Contains       string `json:"contains,omitempty"`  // in that header
	LargerThan     int64  `json:"larger_than,omitempty"`
	Attachment     string `json:"attachment,omitempty"`     // extension
	Authentication string `json:"authentication,omitempty"` // pass, fail: of DMARC
	Outside        string `json:"outside,omitempty"`        // from, to: the sender or the recipient is not of the organization

	Action   string `json:"action"` // disclaimer, redirect, reject, header, bcc, quarantine
	Text     string `json:"text,omitempty"`
	Target   string `json:"target,omitempty"` // address
	AddName  string `json:"header_name,omitempty"`
	AddValue string `json:"header_value,omitempty"`
	Stop     bool   `json:"stop,omitempty"` // no rule after it
}

// Keys of the rows.
const (
	GroupKey        = "transport/settings"
	PolicyPrefix    = "transport/policy/"
	ConnectorPrefix = "transport/connectors/"
	DKIMPrefix      = "transport/dkim/"
	RulePrefix      = "transport/rules/"
)
