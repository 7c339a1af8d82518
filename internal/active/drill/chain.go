package drill

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// head is the newest report.
type head struct {
	ID  string `json:"id"`
	Sum string `json:"sum"`
}

// report waits for what was measured, and writes the report with its place in the
// chain.
func (k Kind) report(o Order, p org.Plan) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			if _, ok := k.Library.World.View().Get(reportPrefix + p.ID); ok {
				return plan.Finding{Done: true, Note: "postern drill report " + p.ID}
			}
			if _, missing := k.measures(o, p.ID, true); len(missing) > 0 {
				return plan.Finding{Wait: "for " + strings.Join(missing, ", ") + " to tell what was measured"}
			}
			return plan.Finding{Wait: "for the report to be signed"}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error {
			got, missing := k.measures(o, p.ID, true)
			if len(missing) > 0 {
				return kind.Errorf(kind.Busy, "%s did not tell what was measured yet", strings.Join(missing, ", "))
			}
			t, err := k.chain(o, p, got)
			if err != nil {
				return err
			}
			return pen.Commit(ctx, t)
		}}
}

// chain is the transaction that adds a report.
func (k Kind) chain(o Order, p org.Plan, got []Measure) (t cluster.Txn, err error) {
	v := k.Library.World.View()
	r := Report{ID: p.ID, Exercise: o.Exercise, Title: p.Title, By: o.By, Why: o.Why, Begun: p.Created.UTC(), Ended: k.Library.Now().UTC(),
		Versions: map[org.ServerName]string{}, Before: o.Before, After: Rows(v), Measures: got, Allowed: o.Allowed}
	if x, ok := k.restored(p.ID); ok {
		r.Restored = append(r.Restored, x)
	}
	r.describe(o, p, v)
	for _, s := range v.Servers() {
		_, version := k.World.Boot(s.Name)
		r.Versions[s.Name] = cmp.Or(version, "not heard")
	}
	r.conclude()
	var h head
	it, ok := v.Get(headKey)
	if ok {
		if err := json.Unmarshal(it.Value, &h); err != nil {
			return t, kind.Errorf(kind.Corrupt, "row of the newest report: %w", err)
		}
	}
	r.Previous = h.Sum
	cert, key := k.World.Identity()
	if err := r.sign(k.World.Me(), cert, key); err != nil {
		return t, err
	}
	sum, err := r.Sum()
	if err != nil {
		return t, err
	}
	put := func(key string, x any) {
		b, merr := json.Marshal(x)
		if merr != nil {
			err = merr
		}
		t.Then = append(t.Then, cluster.Op{Key: key, Value: b})
	}
	t.If = []cluster.Cond{{Key: headKey, Revision: it.Revision}}
	put(headKey, head{ID: r.ID, Sum: sum})
	put(reportPrefix+r.ID, r)
	for _, prefix := range []string{measurePrefix, restoredPrefix, verifiedPrefix} { // what is in the report now
		for key := range v.Prefix(prefix) {
			t.Then = append(t.Then, cluster.Op{Key: key, Delete: true})
		}
	}
	t.Then = append(t.Then, dropOld(v)...)
	return t, err
}

// dropOld removes the oldest reports beyond those that are kept.
func dropOld(v *cluster.View) (out []cluster.Op) {
	var keys []string
	for key := range v.Prefix(reportPrefix) {
		keys = append(keys, key)
	}
	for i := 0; i < len(keys)-(reportsKept-1); i++ {
		out = append(out, cluster.Op{Key: keys[i], Delete: true})
	}
	return out
}

// Rows is the sum of what a drill should leave as it was: servers, databases,
// who is active where, components and networks.
func Rows(v *cluster.View) string {
	h := sha256.New()
	for _, prefix := range []string{"servers/", "databases/", "mounts/", "components/", "networks/"} {
		for key, it := range v.Prefix(prefix) {
			fmt.Fprintf(h, "%s\x00%d\x00", key, len(it.Value))
			h.Write(it.Value)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Reports are all that are kept, oldest first.
func Reports(v *cluster.View) []Report {
	var out []Report
	for _, it := range v.Prefix(reportPrefix) {
		var r Report
		if json.Unmarshal(it.Value, &r) == nil {
			out = append(out, r)
		}
	}
	return out
}
