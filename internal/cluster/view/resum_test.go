package view

import "crypto/sha256"

func resum(b []byte) []byte {
	b = append([]byte(magic+"\x00\x00\x00\x01"), b...)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}
