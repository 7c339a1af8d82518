// Package conf keeps the value types of configuration files that Go has not.
//
// Rooms own their configuration: a struct with toml and doc tags, its defaults
// and a Validate. What is here only makes such values readable in a file.
package conf

import (
	"fmt"
	"time"
)

// Duration is a time.Duration written as text in a file: "60s", "5m".
type Duration time.Duration

// Std returns d as the standard library has it.
func (d Duration) Std() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("duration %q: want a number with a unit, for example 30s or 5m", b)
	}
	*d = Duration(v)
	return nil
}
