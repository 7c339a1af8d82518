package imapd

import (
	"cmp"
	"slices"
	"sort"

	"github.com/postern-mail/postern/internal/mail"
)

// uidList holds the UIDs a client knows, in order: the place of a UID in it
// is its sequence number. It costs 12 bytes per run of UIDs without a gap, so
// a mailbox of 200,000 messages that was never expunged costs 12 bytes.
type uidList struct {
	runs []uidRun
	next mail.UID // no UID at or above was ever in the list
}

type uidRun struct {
	first, last mail.UID
	before      uint32 // UIDs in the runs before
}

func (r uidRun) size() uint32 { return uint32(r.last-r.first) + 1 }

// Len is the number of UIDs.
func (l *uidList) Len() uint32 {
	if len(l.runs) == 0 {
		return 0
	}
	r := l.runs[len(l.runs)-1]
	return r.before + r.size()
}

// Last is the largest UID, 0 in an empty list.
func (l *uidList) Last() mail.UID {
	if len(l.runs) == 0 {
		return 0
	}
	return l.runs[len(l.runs)-1].last
}

// Seq is the sequence number of the UID, 0 if it is not in the list.
func (l *uidList) Seq(u mail.UID) uint32 {
	i := sort.Search(len(l.runs), func(i int) bool { return l.runs[i].last >= u })
	if i == len(l.runs) || l.runs[i].first > u {
		return 0
	}
	return l.runs[i].before + uint32(u-l.runs[i].first) + 1
}

// UID is the UID at the sequence number, which has to be in 1..Len.
func (l *uidList) UID(seq uint32) mail.UID {
	i := sort.Search(len(l.runs), func(i int) bool { return l.runs[i].before+l.runs[i].size() >= seq })
	return l.runs[i].first + mail.UID(seq-l.runs[i].before-1)
}

// Append adds a UID above all others.
func (l *uidList) Append(u mail.UID) { l.appendRun(u, u) }

func (l *uidList) appendRun(first, last mail.UID) {
	l.next = max(l.next, last+1)
	if n := len(l.runs); n > 0 && l.runs[n-1].last+1 == first {
		l.runs[n-1].last = last
		return
	}
	l.runs = append(l.runs, uidRun{first: first, last: last, before: l.Len()})
}

// Remove takes UIDs out in one pass; gone is sorted.
func (l *uidList) Remove(gone []mail.UIDRange) {
	if len(gone) == 0 {
		return
	}
	old := l.runs
	l.runs = make([]uidRun, 0, len(old))
	i := 0
	for _, r := range old {
		first := r.first
		for i < len(gone) && gone[i].Last < first {
			i++
		}
		j := i
		for ; j < len(gone) && gone[j].First <= r.last; j++ {
			if gone[j].First > first {
				l.appendRun(first, gone[j].First-1)
			}
			if gone[j].Last >= r.last {
				first = 0
				break
			}
			first = max(first, gone[j].Last+1)
		}
		i = j
		if first != 0 {
			l.appendRun(first, r.last)
		}
	}
	l.runs = slices.Clip(l.runs)
}

// Intersect gives the UIDs of the list that are in set, which is sorted.
func (l *uidList) Intersect(set []mail.UIDRange) []mail.UIDRange {
	var out []mail.UIDRange
	for _, r := range set {
		i := sort.Search(len(l.runs), func(i int) bool { return l.runs[i].last >= r.First })
		for ; i < len(l.runs) && l.runs[i].first <= r.Last; i++ {
			out = append(out, mail.UIDRange{First: max(r.First, l.runs[i].first), Last: min(r.Last, l.runs[i].last)})
		}
	}
	return out
}

// All gives all UIDs of the list.
func (l *uidList) All() []mail.UIDRange {
	out := make([]mail.UIDRange, len(l.runs))
	for i, r := range l.runs {
		out[i] = mail.UIDRange{First: r.first, Last: r.last}
	}
	return out
}

// unionRanges sorts ranges and joins those that touch.
func unionRanges(sets ...[]mail.UIDRange) []mail.UIDRange {
	var all []mail.UIDRange
	for _, s := range sets {
		all = append(all, s...)
	}
	slices.SortFunc(all, func(a, b mail.UIDRange) int { return cmp.Compare(a.First, b.First) })
	out := all[:0]
	for _, r := range all {
		if r.First > r.Last {
			continue
		}
		if n := len(out); n > 0 && uint64(r.First) <= uint64(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// rangesOf makes ranges of UIDs in order.
func rangesOf(uids []mail.UID) []mail.UIDRange {
	var out []mail.UIDRange
	for _, u := range uids {
		if n := len(out); n > 0 && out[n-1].Last+1 == u {
			out[n-1].Last = u
			continue
		}
		out = append(out, mail.UIDRange{First: u, Last: u})
	}
	return out
}

// holds tells whether sorted ranges hold the UID.
func holds(set []mail.UIDRange, u mail.UID) bool {
	i := sort.Search(len(set), func(i int) bool { return set[i].Last >= u })
	return i < len(set) && set[i].First <= u
}

// countRanges counts the UIDs of ranges.
func countRanges(set []mail.UIDRange) (n uint32) {
	for _, r := range set {
		n += uint32(r.Last-r.First) + 1
	}
	return n
}

// cutRanges takes the first n UIDs off.
func cutRanges(set []mail.UIDRange, n uint32) (head, rest []mail.UIDRange) {
	for i, r := range set {
		size := uint32(r.Last-r.First) + 1
		if size <= n {
			n -= size
			continue
		}
		head, rest = set[:i:i], slices.Clone(set[i:])
		if n > 0 {
			head = append(head, mail.UIDRange{First: r.First, Last: r.First + mail.UID(n) - 1})
			rest[0].First += mail.UID(n)
		}
		return head, rest
	}
	return set, nil
}
