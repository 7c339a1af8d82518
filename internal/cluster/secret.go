package cluster

import "github.com/postern-mail/postern/internal/cluster/ca"

// SealSecret encrypts a secret with the group's key, so that it can be kept in
// the agreed state: only members of the group can open it, and only for the
// same purpose. It is at most 64 KiB.
func (c *Cluster) SealSecret(purpose string, plain []byte) ([]byte, error) {
	return ca.SealSecret(c.groupKey, purpose, plain)
}

// OpenSecret decrypts what a member sealed for the same purpose. Errors: Denied
// where the group or the purpose is another, Corrupt.
func (c *Cluster) OpenSecret(purpose string, sealed []byte) ([]byte, error) {
	return ca.OpenSecret(c.groupKey, purpose, sealed)
}

// DeriveSecret makes 32 bytes that all members of the group, and nobody else,
// can make for a purpose.
func (c *Cluster) DeriveSecret(purpose string) []byte {
	return ca.DeriveSecret(c.groupKey, purpose)
}

// Witness tells whether this server only votes.
func (c *Cluster) Witness() bool { return c.self.Witness }
