package imapwire

import (
	"slices"
	"strconv"
	"strings"

	"github.com/emersion/go-imap/v2"
)

// NumKind tells sequence numbers from UIDs.
type NumKind int

// The kinds.
const (
	NumKindSeq NumKind = iota + 1
	NumKindUID
)

// ExpectNumSet expects a sequence-set; "$" becomes imap.SearchRes.
func (dec *Decoder) ExpectNumSet(kind NumKind, ptr *imap.NumSet) bool {
	if dec.Special('$') {
		*ptr = imap.SearchRes()
		return true
	}
	var s string
	if !dec.Expect(dec.Func(&s, isNumSetChar), "sequence-set") {
		return false
	}
	set, err := ParseSeqSet(s)
	if err != nil {
		return dec.fail(err)
	}
	if kind == NumKindSeq {
		*ptr = set
		return true
	}
	uids := make(imap.UIDSet, len(set))
	for i, r := range set {
		uids[i] = imap.UIDRange{Start: imap.UID(r.Start), Stop: imap.UID(r.Stop)}
	}
	*ptr = uids
	return true
}

// ExpectUIDSet expects a sequence-set of UIDs.
func (dec *Decoder) ExpectUIDSet(ptr *imap.UIDSet) bool {
	var set imap.NumSet
	if !dec.ExpectNumSet(NumKindUID, &set) {
		return false
	}
	*ptr = set.(imap.UIDSet)
	return true
}

func isNumSetChar(ch byte) bool {
	return ch == '*' || IsAtomChar(ch)
}

// ParseSeqSet parses a sequence-set (RFC 9051 section 9) in one pass. The
// ranges are sorted and do not touch each other; 0 stands for "*" and comes
// last, as the Stop of "n:*" or as both ends of "*".
func ParseSeqSet(s string) (imap.SeqSet, error) {
	set := make(imap.SeqSet, 0, 1+strings.Count(s, ","))
	var open uint32 // the smallest n of "n:*"
	star := false
	for el := range strings.SplitSeq(s, ",") {
		a, b, isRange := strings.Cut(el, ":")
		start, ok := parseSetNum(a)
		stop := start
		if isRange && ok {
			stop, ok = parseSetNum(b)
		}
		if !ok {
			return nil, Syntaxf("sequence set %.40q", el)
		}
		if start == 0 {
			start, stop = stop, start
		}
		switch {
		case start == 0: // "*"
			star = true
			continue
		case stop == 0:
			if open == 0 || start < open {
				open = start
			}
			continue
		case start > stop:
			start, stop = stop, start
		}
		set = append(set, imap.SeqRange{Start: start, Stop: stop})
	}
	set = mergeRanges(set)
	switch {
	case open != 0:
		set = append(set, imap.SeqRange{Start: open})
	case star:
		set = append(set, imap.SeqRange{})
	}
	return set, nil
}

func mergeRanges(set imap.SeqSet) imap.SeqSet {
	slices.SortFunc(set, func(a, b imap.SeqRange) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	out := set[:0]
	for _, r := range set {
		if n := len(out); n > 0 && uint64(r.Start) <= uint64(out[n-1].Stop)+1 {
			out[n-1].Stop = max(out[n-1].Stop, r.Stop)
			continue
		}
		out = append(out, r)
	}
	return out
}

// parseSetNum parses an nz-number or "*", which is 0.
func parseSetNum(s string) (uint32, bool) {
	if s == "*" {
		return 0, true
	}
	if s == "" || s[0] < '1' || s[0] > '9' {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil
}
