package imapwire

import (
	"encoding/base64"
)

// EncodeSASL writes a challenge (RFC 4959 section 3).
func EncodeSASL(b []byte) string {
	if len(b) == 0 {
		return "="
	} else {
		return base64.StdEncoding.EncodeToString(b)
	}
}

// DecodeSASL reads a response (RFC 4959 section 3).
func DecodeSASL(s string) ([]byte, error) {
	if s == "=" {
		// go-sasl treats nil as no challenge/response, so return a non-nil
		// empty byte slice
		return []byte{}, nil
	} else {
		return base64.StdEncoding.DecodeString(s)
	}
}
