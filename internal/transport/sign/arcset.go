package sign

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// collector gathers the sets of a chain.
type collector struct {
	sets    [maxSets]arcSet
	seen    [maxSets][len(arcNames)]bool
	highest int
	err     error // the first thing that is wrong
}

// arcNames are the three fields of a set, in the order in which seals hash them.
var arcNames = [...]string{nameResults, nameMessage, nameSeal}

// sets collects the ARC sets of a message, oldest first, and the highest i=.
// Each must be there once, with all three fields, and none may be missing.
func (m *message) sets() ([]arcSet, int, error) {
	var c collector
	for which, name := range arcNames {
		at := m.named[name]
		if len(at) > maxSets {
			return nil, maxSets, fmt.Errorf("%d times %s", len(at), name)
		}
		for _, n := range at {
			c.add(which, m.fields[n])
		}
	}
	for i := range c.highest {
		if c.seen[i] != [...]bool{true, true, true} {
			c.broken("set %d is not complete", i+1)
		}
	}
	return c.sets[:c.highest], c.highest, c.err
}

func (c *collector) broken(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf(format, args...)
	}
}

// add takes a field in; which is its place in arcNames.
func (c *collector) add(which int, f field) {
	i, text, err := instance(f)
	if err != nil {
		c.broken("%s: %w", f.name, err)
		return
	}
	c.highest = max(c.highest, i)
	if c.seen[i-1][which] {
		c.broken("%s %d twice", f.name, i)
		return
	}
	c.seen[i-1][which] = true
	set := &c.sets[i-1]
	switch arcNames[which] {
	case nameResults:
		set.results, set.text = f, text
	case nameMessage:
		set.message, err = parseSignature(f, messageField)
		if err == nil {
			err = set.message.coverARC()
		}
	case nameSeal:
		set.seal, err = parseSignature(f, sealField)
	}
	if err != nil {
		c.broken("%s %d: %w", f.name, i, err)
	}
}

// coverARC refuses message signatures over seals: a seal is made after it (RFC
// 8617 section 4.1.2).
func (s *signature) coverARC() error {
	for _, n := range s.names {
		if n == nameSeal {
			return errors.New("h= names ARC-Seal")
		}
	}
	return nil
}

// instance reads i= of an ARC field, and what stands behind it if it comes
// first, as it must in ARC-Authentication-Results (RFC 8617 section 4.1.1).
func instance(f field) (i int, text string, err error) {
	for rest, more := f.value(), true; more; {
		var spec []byte
		spec, rest, more = bytes.Cut(rest, []byte(";"))
		name, value, ok := strings.Cut(string(spec), "=")
		if ok && trim(name) == "i" {
			n, err := number(trim(value))
			if err != nil || n < 1 || n > maxSets {
				return 0, "", fmt.Errorf("i= is not 1 to %d", maxSets)
			}
			return int(n), string(appendRelaxed(nil, rest)), nil
		}
		if f.name == nameResults {
			break
		}
	}
	return 0, "", errors.New("no i=")
}
