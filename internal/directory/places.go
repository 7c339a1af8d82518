package directory

import (
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// placesFor is how long the count of mailboxes per database is believed; what is
// created here meanwhile is counted along.
const placesFor = 5 * time.Second

// places knows how many mailboxes each database has.
type places struct {
	mu    sync.Mutex // guards all below
	count map[org.DatabaseName]int
	at    time.Time
}

// place chooses the database for a new mailbox and adds to a transaction that it
// stays there as it is: whoever removes it marks it first.
func (d *Directory) place(v View, t *txn, wanted org.DatabaseName) (org.DatabaseName, error) {
	db, err := d.choose(v, wanted)
	if err != nil {
		return "", err
	}
	it, _ := v.Get(databaseKey(db))
	t.If = append(t.If, Cond{Key: databaseKey(db), Revision: it.Revision})
	return db, nil
}

// choose names the database for a new mailbox: the wanted one, or the one with
// the fewest mailboxes of those that are not taken offline or being removed.
func (d *Directory) choose(v View, wanted org.DatabaseName) (org.DatabaseName, error) {
	p := &d.places
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); p.count == nil || now.Sub(p.at) > placesFor {
		p.count, p.at = d.countPlaces(v), now
	}
	var best org.DatabaseName
	for _, db := range v.Databases() {
		if wanted != "" {
			if db.Name == wanted {
				if db.Removing {
					return "", kind.WithHint(kind.Errorf(kind.Conflict, "database %s is being removed", wanted),
						"choose another one; a removal that was broken off is ended by postern database remove "+string(wanted))
				}
				p.count[wanted]++
				return wanted, nil
			}
			continue
		}
		if !db.Dismounted && !db.Removing && (best == "" || p.count[db.Name] < p.count[best]) {
			best = db.Name
		}
	}
	switch {
	case wanted != "":
		return "", kind.WithHint(kind.Errorf(kind.NotFound, "database %s: no such database", wanted), "postern database list")
	case best == "":
		return "", kind.WithHint(kind.Errorf(kind.Busy, "choose a database: there is none online"), "postern database create")
	}
	p.count[best]++
	return best, nil
}

func (d *Directory) countPlaces(v View) map[org.DatabaseName]int {
	n := map[org.DatabaseName]int{}
	for key, it := range v.Prefix("recipients/") {
		if r := d.rows.get(key, it); r != nil && r.IsMailbox() {
			n[r.Database]++
		}
	}
	return n
}
