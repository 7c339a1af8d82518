package message

import "strings"

// maxKept is how many values of a field that may come often a survey keeps.
const maxKept = 100

// Span is a range of bytes of a message.
type Span struct{ Start, End int }

// AuthResults is one Authentication-Results field (RFC 8601).
type AuthResults struct {
	Span
	Server string // authserv-id, in small letters
	Value  string
}

// Survey is what doors, policy and the categoriser need to know of a header.
// Values are unfolded. Of fields that may come often the first 100 are kept.
type Survey struct {
	Ending
	Received    int      // how often it was received
	ReceivedBy  []string // the hosts that did, in small letters, the last one first
	From        []string
	OddFrom     bool // a From with blanks before the colon
	Sender      []string
	ReplyTo     string
	MessageID   string
	Subject     string
	Date        bool
	ContentType string
	Automatic   bool     // a machine sent it (RFC 3834, and what lists wrote before)
	DeliveredTo []string // X-Loop and Delivered-To
	ReturnPath  []Span
	AuthResults []AuthResults
	Blind       []Span // Bcc and Resent-Bcc
}

// Look reads a header once.
func Look(msg []byte) Survey {
	var s Survey
	for f := range Fields(msg, &s.Ending) {
		s.take(msg, f)
	}
	return s
}

func (s *Survey) take(msg []byte, f HeaderField) {
	switch strings.ToLower(f.Name) {
	case "received":
		s.Received++
		keep(&s.ReceivedBy, receivedBy(f.Value(msg)))
	case "from":
		keep(&s.From, f.Value(msg))
		s.OddFrom = s.OddFrom || f.Odd
	case "sender":
		keep(&s.Sender, f.Value(msg))
	case "reply-to":
		first(&s.ReplyTo, f.Value(msg))
	case "message-id":
		first(&s.MessageID, f.Value(msg))
	case "subject":
		first(&s.Subject, f.Value(msg))
	case "date":
		s.Date = true
	case "content-type":
		first(&s.ContentType, f.Value(msg))
	case "auto-submitted":
		s.Automatic = s.Automatic || !strings.EqualFold(f.Value(msg), "no")
	case "precedence":
		switch strings.ToLower(f.Value(msg)) {
		case "bulk", "list", "junk":
			s.Automatic = true
		}
	case "x-loop", "delivered-to":
		keep(&s.DeliveredTo, strings.ToLower(f.Value(msg)))
	case "return-path":
		s.ReturnPath = append(s.ReturnPath, Span{f.Start, f.End})
	case "authentication-results":
		v := f.Value(msg)
		s.AuthResults = append(s.AuthResults, AuthResults{Span{f.Start, f.End}, authServer(v), v})
	case "bcc", "resent-bcc":
		s.Blind = append(s.Blind, Span{f.Start, f.End})
	}
}

func keep(to *[]string, v string) {
	if len(*to) < maxKept {
		*to = append(*to, v)
	}
}

func first(to *string, v string) {
	if *to == "" {
		*to = v
	}
}

// receivedBy is the host of the by clause of a Received value (RFC 5321
// section 4.4), empty where there is none.
func receivedBy(v string) string {
	v, _, _ = strings.Cut(uncomment(v), ";")
	words := strings.Fields(v)
	for i, w := range words {
		if strings.EqualFold(w, "by") && i+1 < len(words) {
			return strings.ToLower(words[i+1])
		}
	}
	return ""
}

// authServer is the authserv-id (RFC 8601 section 2.2).
func authServer(v string) string {
	id, _, _ := strings.Cut(v, ";")
	id, _, _ = strings.Cut(strings.TrimSpace(id), " ")
	return strings.ToLower(strings.Trim(id, `"`))
}
