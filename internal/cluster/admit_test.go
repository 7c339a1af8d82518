package cluster

import (
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/cluster/joining"
)

// TestJoinAnswerLost: who did not hear that it was taken in asks again, at any
// member, and is told; a used token is of no use to anybody else.
func TestJoinAnswerLost(t *testing.T) {
	n := first(t)
	text, _, err := n.CreateToken(t.Context(), TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := joining.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	_, csr, err := ca.Request()
	if err != nil {
		t.Fatal(err)
	}
	req := joining.Request{Version: joining.Version, Secret: token.Secret, Name: "MBX2", Site: "A", Addr: "127.0.0.2:7443", CSR: csr}
	once, err := n.takeIn(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	again, err := n.takeIn(t.Context(), req)
	if err != nil || again.Identity != once.Identity || len(again.View) == 0 {
		t.Errorf("identity %q, then %q: %v", once.Identity, again.Identity, err)
	}
	if _, req.CSR, err = ca.Request(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.takeIn(t.Context(), req); !kind.Is(err, kind.Denied) {
		t.Errorf("%v, want Denied", err)
	}
}
