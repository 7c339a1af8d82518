package mesh

import (
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// State is what a server finds of another.
type State string

// The states.
const (
	Unknown State = "unknown" // not heard yet, and not for long enough to say more
	Up      State = "up"
	Refused State = "refused" // its host answers and its process is gone
	Silent  State = "silent"  // nothing is heard of it
)

func (s State) gone() bool { return s == Refused || s == Silent }

// witness is another member that can be heard, and what it finds.
type witness struct {
	server org.ServerName
	state  State
}

// judge tells whether a server is dead, and in one sentence why. See the
// package comment for the rule.
func judge(own State, since time.Duration, heard []witness) (why string, dead bool) {
	if !own.gone() {
		return fmt.Sprintf("%s here", own), false
	}
	say := fmt.Sprintf("%s here for %s", own, since.Round(time.Millisecond))
	if len(heard) == 0 {
		return say + ", nobody else to ask", own == Refused
	}
	var agree, differ []string
	for _, w := range heard {
		if w.state.gone() {
			agree = append(agree, string(w.server))
		} else {
			differ = append(differ, string(w.server))
		}
	}
	if len(agree) > 0 {
		say += ", gone for " + strings.Join(agree, " ")
	}
	if len(differ) > 0 {
		say += ", not for " + strings.Join(differ, " ")
	}
	return say, 2*len(agree) > len(heard)
}
