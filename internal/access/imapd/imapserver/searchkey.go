package imapserver

import (
	"strings"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
)

// maxSearchDepth limits NOT and OR inside each other (faults.md B44); what the
// door adds around them stays within the 100 levels of the store.
const maxSearchDepth = 98

func maybeReadSearchKeyAtom(dec *imapwire.Decoder, ptr *string) bool {
	return dec.Func(ptr, func(ch byte) bool {
		return ch == '*' || imapwire.IsAtomChar(ch)
	})
}

// readSearchKey reads one search key into criteria; key is its first word
// where that was read already.
func readSearchKey(criteria *imap.SearchCriteria, dec *imapwire.Decoder, key string, depth int) error {
	if depth > maxSearchDepth {
		return imapwire.Syntaxf("search keys more than %d deep", maxSearchDepth)
	}
	if key == "" && !maybeReadSearchKeyAtom(dec, &key) {
		return dec.ExpectList(func() error {
			return readSearchKey(criteria, dec, "", depth+1)
		})
	}
	key = strings.ToUpper(key)
	switch key {
	case "ALL":
		return nil
	case "ANSWERED", "DELETED", "DRAFT", "FLAGGED", "RECENT", "SEEN":
		criteria.Flag = append(criteria.Flag, searchKeyFlag(key))
		return nil
	case "UNANSWERED", "UNDELETED", "UNDRAFT", "UNFLAGGED", "UNSEEN":
		criteria.NotFlag = append(criteria.NotFlag, searchKeyFlag(strings.TrimPrefix(key, "UN")))
		return nil
	case "NEW":
		criteria.Flag = append(criteria.Flag, imapwire.FlagRecent)
		criteria.NotFlag = append(criteria.NotFlag, imap.FlagSeen)
		return nil
	case "OLD":
		criteria.NotFlag = append(criteria.NotFlag, imapwire.FlagRecent)
		return nil
	case "$":
		criteria.UID = append(criteria.UID, imap.SearchRes())
		return nil
	}
	if key[0] == '*' || key[0] >= '0' && key[0] <= '9' {
		set, err := imapwire.ParseSeqSet(key)
		criteria.SeqNum = append(criteria.SeqNum, set)
		return err
	}
	return readSearchKeyWithValue(criteria, dec, key, depth)
}

func readSearchKeyWithValue(criteria *imap.SearchCriteria, dec *imapwire.Decoder, key string, depth int) error {
	if !searchKeysWithValue[key] {
		return imapwire.Syntaxf("unknown search key %.40q", key)
	}
	if !dec.ExpectSP() {
		return dec.Err()
	}
	switch key {
	case "UID":
		var set imap.UIDSet
		if !dec.ExpectUIDSet(&set) {
			return dec.Err()
		}
		criteria.UID = append(criteria.UID, set)
	case "KEYWORD", "UNKEYWORD":
		flag, err := imapwire.ExpectFlag(dec)
		if err != nil {
			return err
		}
		if key == "KEYWORD" {
			criteria.Flag = append(criteria.Flag, flag)
		} else {
			criteria.NotFlag = append(criteria.NotFlag, flag)
		}
	case "SINCE", "BEFORE", "ON", "SENTSINCE", "SENTBEFORE", "SENTON":
		t, err := imapwire.ExpectDate(dec)
		if err != nil {
			return err
		}
		addDate(criteria, key, t)
	case "LARGER", "SMALLER":
		var n int64
		if !dec.ExpectNumber64(&n) {
			return dec.Err()
		}
		addSize(criteria, key, n)
	case "NOT":
		var not imap.SearchCriteria
		if err := readSearchKey(&not, dec, "", depth+1); err != nil {
			return err
		}
		criteria.Not = append(criteria.Not, not)
	case "OR":
		var or [2]imap.SearchCriteria
		if err := readSearchKey(&or[0], dec, "", depth+1); err != nil {
			return err
		}
		if !dec.ExpectSP() {
			return dec.Err()
		}
		if err := readSearchKey(&or[1], dec, "", depth+1); err != nil {
			return err
		}
		criteria.Or = append(criteria.Or, or)
	default:
		return readSearchString(criteria, dec, key)
	}
	return nil
}

func readSearchString(criteria *imap.SearchCriteria, dec *imapwire.Decoder, key string) error {
	name := key
	if key == "HEADER" && (!dec.ExpectAString(&name) || !dec.ExpectSP()) {
		return dec.Err()
	}
	var value string
	if !dec.ExpectAString(&value) {
		return dec.Err()
	}
	switch key {
	case "BODY":
		criteria.Body = append(criteria.Body, value)
	case "TEXT":
		criteria.Text = append(criteria.Text, value)
	default:
		criteria.Header = append(criteria.Header, imap.SearchCriteriaHeaderField{Key: name, Value: value})
	}
	return nil
}

// searchKeysWithValue are the keys that something follows.
var searchKeysWithValue = map[string]bool{
	"UID": true, "KEYWORD": true, "UNKEYWORD": true, "LARGER": true, "SMALLER": true, "NOT": true, "OR": true,
	"SINCE": true, "BEFORE": true, "ON": true, "SENTSINCE": true, "SENTBEFORE": true, "SENTON": true,
	"BCC": true, "CC": true, "FROM": true, "SUBJECT": true, "TO": true, "HEADER": true, "BODY": true, "TEXT": true,
}

// addDate narrows a date; only the day counts (RFC 9051 section 6.4.4).
func addDate(criteria *imap.SearchCriteria, key string, t time.Time) {
	since, before := &criteria.Since, &criteria.Before
	if name, sent := strings.CutPrefix(key, "SENT"); sent {
		key, since, before = name, &criteria.SentSince, &criteria.SentBefore
	}
	if (key == "SINCE" || key == "ON") && t.After(*since) {
		*since = t
	}
	if key == "ON" {
		t = t.AddDate(0, 0, 1)
	}
	if (key == "BEFORE" || key == "ON") && (before.IsZero() || t.Before(*before)) {
		*before = t
	}
}

// addSize narrows a size. No message is smaller than nothing.
func addSize(criteria *imap.SearchCriteria, key string, n int64) {
	switch {
	case key == "LARGER":
		criteria.Larger = max(criteria.Larger, n)
	case n == 0:
		criteria.Not = append(criteria.Not, imap.SearchCriteria{})
	case criteria.Smaller == 0 || n < criteria.Smaller:
		criteria.Smaller = n
	}
}

func searchKeyFlag(key string) imap.Flag {
	return imap.Flag("\\" + key[:1] + strings.ToLower(key[1:]))
}
