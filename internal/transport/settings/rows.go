package settings

import (
	"net/netip"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/org"
)

// Group is what holds for all servers (transport/settings). A field that is zero
// has its default; Book fills it in.
//
// Tags of the rows: doc, default (its first word is the value), enum, unit, min
// and max. Fields without doc are no settings.
type Group struct {
	ShadowEnabled          *bool         `json:"shadow_enabled,omitempty" doc:"Hold each message on a second server until it is delivered." default:"true"`
	RejectOnShadowFailure  string        `json:"reject_on_shadow_failure,omitempty" doc:"What happens to a message that no second server could store: auto refuses it (451 4.4.0) while another server is up and could store it, and while this server is cut off from most others; always refuses, never accepts." default:"auto" enum:"auto,always,never"`
	ShadowPreference       string        `json:"shadow_preference,omitempty" doc:"Where the second copy goes." default:"prefer_remote" enum:"prefer_remote,remote_only,local_only"`
	RetriesRemoteSite      int           `json:"retries_remote_site,omitempty" doc:"Servers of other sites that are tried for the second copy." default:"4" unit:"servers" max:"16"`
	RetriesLocalSite       int           `json:"retries_local_site,omitempty" doc:"Servers of this site that are tried for the second copy." default:"2" unit:"servers" max:"16"`
	ShadowTimeout          conf.Duration `json:"shadow_timeout,omitempty" doc:"How long one of them is waited for." default:"2s" min:"50ms" max:"1m"`
	AcceptTimeout          conf.Duration `json:"accept_timeout,omitempty" doc:"How long all of them are waited for." default:"30s" min:"1s" max:"5m"`
	ShadowHeartbeat        conf.Duration `json:"shadow_heartbeat,omitempty" doc:"How often a shadow compares what it holds with the server it holds it for." default:"2m" min:"1s" max:"1h"`
	TakeoverAfter          conf.Duration `json:"takeover_after,omitempty" doc:"How long a server is dead before its messages are taken over." default:"2s" min:"1s" max:"1h"`
	InDoubtWait            conf.Duration `json:"in_doubt_wait,omitempty" doc:"How long a message whose delivery to a remote host was cut short waits for the server that tried, before another server tries again." default:"5m" min:"1s" max:"24h"`
	AutoDiscardInterval    conf.Duration `json:"auto_discard_interval,omitempty" doc:"How long a server that is away is still owed word of what became of its copies." default:"48h" min:"1m" max:"720h"`
	HoldTime               conf.Duration `json:"hold_time,omitempty" doc:"How long Safety Net keeps a delivered message." default:"48h" min:"1m" max:"720h"`
	MessageExpiration      conf.Duration `json:"message_expiration,omitempty" doc:"How long delivery is tried before the message is returned." default:"48h" min:"1m" max:"720h"`
	SafetyNetMargin        conf.Duration `json:"safetynet_margin,omitempty" doc:"By how much a request reaches beyond its interval, for clocks that differ." default:"10m" min:"1s" max:"24h"`
	SafetyNetShadowAfter   conf.Duration `json:"safetynet_shadow_after,omitempty" doc:"How long a server is away before the holders of its copies answer a request for it." default:"15s" min:"1s" max:"24h"`
	DelayNotice            conf.Duration `json:"delay_notice,omitempty" doc:"When the sender is told that a message is delayed." default:"4h" min:"1m" max:"720h"`
	FullRetry              conf.Duration `json:"full_retry,omitempty" doc:"How long a full mailbox is tried before the message is returned." default:"24h" min:"1m" max:"720h"`
	MaxRecipientsExpanded  int           `json:"max_recipients_expanded,omitempty" doc:"Recipients of one message after groups are expanded." default:"10000" unit:"recipients" max:"100000"`
	TraceRetention         conf.Duration `json:"trace_retention,omitempty" doc:"How long message trace knows a finished message." default:"336h" min:"1h" max:"8760h"`
	Greylist               bool          `json:"greylist,omitempty" doc:"Defer the first message of a stranger without any good mark." default:"false"`
	GreylistDelay          conf.Duration `json:"greylist_delay,omitempty" doc:"How long it is deferred." default:"2m" min:"1s" max:"4h"`
	DNSBL                  []string      `json:"dnsbl,omitempty" doc:"Block lists to ask, each as zone or zone=weight; a client whose weights reach 10 is refused. Without a weight it is 10."`
	DMARCEnforce           *bool         `json:"dmarc_enforce,omitempty" doc:"Do with a message that fails DMARC what the domain asks for." default:"true"`
	DMARCReports           *bool         `json:"dmarc_reports,omitempty" doc:"Send aggregate reports to domains that ask for them." default:"true"`
	TLSReports             *bool         `json:"tls_reports,omitempty" doc:"Send TLS reports to domains that ask for them." default:"true"`
	DKIMWait               conf.Duration `json:"dkim_wait,omitempty" doc:"How long DNS has to answer with the record of a DKIM key before the key signs." default:"1h" min:"1s" max:"168h"`
	ARCTrusted             []string      `json:"arc_trusted,omitempty" doc:"Domains whose ARC seals count."`
	SpamScanFail           string        `json:"spam_scan_fail,omitempty" doc:"What happens while the spam scanner does not answer." default:"open" enum:"open,closed"`
	MalwareScanFail        string        `json:"malware_scan_fail,omitempty" doc:"What happens while the malware scanner does not answer." default:"closed" enum:"open,closed"`
	OutboundAccountPerHour int           `json:"outbound_account_per_hour,omitempty" doc:"Recipients elsewhere that one account may write to in an hour; beyond, its mail waits for an administrator." default:"1000" unit:"recipients"`
	OutboundAccountPerDay  int           `json:"outbound_account_per_day,omitempty" doc:"The same in a day." default:"5000" unit:"recipients"`
	ConnectionsPerMinute   int           `json:"connections_per_minute,omitempty" doc:"Connections from strangers of one network (/24, /64) in a minute." default:"300" unit:"connections"`
	SmartHost              string        `json:"smart_host,omitempty" doc:"host[:port] that all mail for the Internet goes through. Empty: directly to the recipients' servers."`
}

// Policy is what an organization decided (transport/policy/<organization>).
type Policy struct {
	Organization      org.OrganizationID `json:"organization"`
	SpamAction        string             `json:"spam_action,omitempty" doc:"What happens to mail the scanner calls spam." default:"quarantine" enum:"mark,quarantine,reject"`
	MalwareAction     string             `json:"malware_action,omitempty" doc:"What happens to malware." default:"reject" enum:"quarantine,reject"`
	Attachments       []AttachmentRule   `json:"attachments,omitempty" doc:"What happens to kinds of attachments: a list of extension=action or type/subtype=action, the actions being reject and quarantine."`
	QuarantineDays    int                `json:"quarantine_days,omitempty" doc:"How long quarantine keeps a message." default:"30" unit:"days" max:"365"`
	QuarantineDigest  bool               `json:"quarantine_digest,omitempty" doc:"Tell people once a day what waits for them in quarantine." default:"false"`
	MessagesPerMinute int                `json:"messages_per_minute,omitempty" doc:"Messages the organization may send in a minute." default:"0 (no limit)" unit:"messages"`
	Concurrency       int                `json:"concurrency,omitempty" doc:"Deliveries of its messages at a time." default:"0 (no limit)" unit:"deliveries"`
	MaxMessage        int64              `json:"max_message,omitempty" doc:"Bytes of a message." default:"0 (as the server)" unit:"bytes"`
	Journal           string             `json:"journal,omitempty" doc:"Address that gets a copy of each message."`
	Disclaimer        string             `json:"disclaimer,omitempty" doc:"Text below each message that leaves the organization."`
}

// AttachmentRule says what happens to a kind of attachment. Its text is
// extension=action or type/subtype=action.
type AttachmentRule struct {
	Extension string // of the file name, without the dot
	Type      string // media type, or its first half with /*
	Action    string // reject, quarantine
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

// AllDomains, among the domains of a connector, stands for those elsewhere that
// no other connector of the organization names.
const AllDomains = "*"

// Connector is a way to or from another mail system
// (transport/connectors/<organization>/<name>).
type Connector struct {
	Name              string             `json:"name"`
	Organization      org.OrganizationID `json:"organization"`
	Enabled           bool               `json:"enabled" doc:"Mail goes through it." default:"false"`
	Direction         string             `json:"direction" doc:"Mail comes in by it, goes out by it, or both." enum:"in,out,both"`
	Kind              string             `json:"kind" doc:"What is at the other end." enum:"exchange-online,google,smtp"`
	Hosts             []string           `json:"hosts,omitempty" doc:"Names or addresses of the hosts that mail goes out to; names are looked up at each connect."`
	Port              int                `json:"port,omitempty" doc:"Port of the hosts." default:"25" max:"65535"`
	IPv4Only          bool               `json:"ipv4_only,omitempty" doc:"Connect by IPv4 only." default:"false"`
	TLS               string             `json:"tls,omitempty" doc:"Whether a connection out must be encrypted and its certificate verified." default:"required" enum:"required,opportunistic"`
	VerifyName        string             `json:"verify_name,omitempty" doc:"Name that the certificate of a host must have, *.domain for any below it. Empty: the name of the host."`
	CA                string             `json:"ca,omitempty" doc:"CA certificates (PEM) that vouch for the hosts. Empty: those of the system."`
	ClientCertificate string             `json:"client_certificate,omitempty" doc:"Certificate that is shown to the hosts. Empty: none."`
	User              string             `json:"user,omitempty" doc:"Login at the hosts. Empty: none."`
	Password          []byte             `json:"password,omitempty"` // sealed for PasswordPurpose
	Domains           []string           `json:"domains,omitempty" doc:"Domains of recipients whose mail goes out here when nothing else says where; * stands for all that are elsewhere."`
	Networks          []netip.Prefix     `json:"networks,omitempty" doc:"Networks that mail comes in from."`
	CertificateNames  []string           `json:"certificate_names,omitempty" doc:"Names of verified client certificates that mail comes in with."`
	Concurrency       int                `json:"concurrency,omitempty" doc:"Connections out at a time. 0: as the destination bears." default:"0 (adapts)" unit:"connections" max:"1000"`
	PerMinute         int                `json:"per_minute,omitempty" doc:"Messages out in a minute." default:"0 (no limit)" unit:"messages"`
	MaxMessage        int64              `json:"max_message,omitempty" doc:"Bytes of a message." default:"0 (as the server)" unit:"bytes"`
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
	// Seen is since when DNS answers with the record of a key that is
	// publishing, zero while it does not.
	Seen time.Time `json:"seen,omitzero"`
}

// Rule is a transport rule (transport/rules/<organization>/<name>). All
// conditions that are there have to hold; texts match as parts and without
// case.
type Rule struct {
	Name         string             `json:"name"`
	Organization org.OrganizationID `json:"organization"`
	Priority     int                `json:"priority" doc:"Place among the rules; smaller is first." default:"0" min:"-1000" max:"1000"`
	Disabled     bool               `json:"disabled,omitempty" doc:"The rule does nothing." default:"false"`

	Sender         string `json:"sender,omitempty" doc:"Condition: address or @domain of the sender."`
	Recipient      string `json:"recipient,omitempty" doc:"Condition: address or @domain of a recipient."`
	Header         string `json:"header,omitempty" doc:"Condition: the message has this header field."`
	Contains       string `json:"contains,omitempty" doc:"Condition: that header field contains this text."`
	LargerThan     int64  `json:"larger_than,omitempty" doc:"Condition: the message is larger." default:"0 (any)" unit:"bytes"`
	Attachment     string `json:"attachment,omitempty" doc:"Condition: an attachment has this extension."`
	Authentication string `json:"authentication,omitempty" doc:"Condition: DMARC of the sender." enum:"pass,fail"`
	Outside        string `json:"outside,omitempty" doc:"Condition: the sender (from) or the recipient (to) is not of the organization." enum:"from,to"`

	Action   string `json:"action" doc:"What is done." enum:"disclaimer,redirect,reject,header,bcc,quarantine"`
	Text     string `json:"text,omitempty" doc:"Text of a disclaimer or a rejection, reason of a quarantine."`
	Target   string `json:"target,omitempty" doc:"Address of redirect and bcc."`
	AddName  string `json:"header_name,omitempty" doc:"Header field that is added."`
	AddValue string `json:"header_value,omitempty" doc:"Its value."`
	Stop     bool   `json:"stop,omitempty" doc:"No rule after it is asked." default:"false"`
}

// Keys of the rows.
const (
	GroupKey        = "transport/settings"
	PolicyPrefix    = "transport/policy/"
	ConnectorPrefix = "transport/connectors/"
	DKIMPrefix      = "transport/dkim/"
	RulePrefix      = "transport/rules/"
)
