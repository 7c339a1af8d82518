// Package settings reads a TOML file into a struct and writes the sample file
// from the same struct, so that the two cannot drift apart.
//
// Reading is strict: what the struct does not know is refused. Every refusal
// is a Problem that tells file, line, key, reason and remedy, and all problems
// of a file are reported at once, in the order of its lines.
//
// Fields carry tags: toml:"name" (required to be read at all), doc:"..."
// (the comment in the sample), default:"..." (what the comment says is used when the
// key is absent), enum:"a,b" (allowed values), secret:"true" (never shown), hide:"a,b"
// (settings of a section that another part of the file has).
// Durations are text with a unit ("30s"), sizes are numbers or text with a
// unit ("10GiB"), everything that implements encoding.TextUnmarshaler is text.
package settings
