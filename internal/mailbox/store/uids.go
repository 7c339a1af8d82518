package store

import (
	"cmp"
	"slices"

	"github.com/postern-mail/postern/internal/mail"
)

// normalize sorts ranges and joins those that touch; nil stays nil (all). A
// range given backwards counts forwards (RFC 9051 section 9, seq-range).
func normalize(in []mail.UIDRange) []mail.UIDRange {
	if in == nil {
		return nil
	}
	all := make([]mail.UIDRange, 0, len(in))
	for _, r := range in {
		if r.First > r.Last {
			r.First, r.Last = r.Last, r.First
		}
		all = append(all, r)
	}
	slices.SortFunc(all, func(a, b mail.UIDRange) int { return cmp.Compare(a.First, b.First) })
	out := all[:0]
	for _, r := range all {
		if n := len(out); n > 0 && uint64(r.First) <= uint64(out[n-1].Last)+1 {
			out[n-1].Last = max(out[n-1].Last, r.Last)
			continue
		}
		out = append(out, r)
	}
	return out
}

// addUID appends a UID greater than all in the ranges.
func addUID(r []mail.UIDRange, u mail.UID) []mail.UIDRange {
	if n := len(r); n > 0 && r[n-1].Last+1 == u {
		r[n-1].Last = u
		return r
	}
	return append(r, mail.UIDRange{First: u, Last: u})
}

// holds tells whether normalized ranges (nil: all) hold the UID.
func holds(r []mail.UIDRange, u mail.UID) bool {
	if r == nil {
		return true
	}
	i, ok := slices.BinarySearchFunc(r, u, func(e mail.UIDRange, u mail.UID) int { return cmp.Compare(e.First, u) })
	return ok || i > 0 && u <= r[i-1].Last
}

// maxExpand is more than one record can change; rows that say more are damaged.
const maxExpand = 1 << 20

// expand lists the UIDs of ranges that this package made.
func expand(r []mail.UIDRange) []mail.UID {
	var out []mail.UID
	for _, x := range r {
		for u := uint64(x.First); u <= uint64(x.Last) && len(out) < maxExpand; u++ {
			out = append(out, mail.UID(u))
		}
	}
	return out
}

// compact makes ranges of ascending UIDs.
func compact(uids []mail.UID) []mail.UIDRange {
	var out []mail.UIDRange
	for _, u := range uids {
		out = addUID(out, u)
	}
	return out
}
