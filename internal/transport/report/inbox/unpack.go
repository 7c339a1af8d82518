package inbox

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"path"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
)

// Limits of one report.
const (
	MaxPacked   = 4 << 20  // bytes
	MaxUnpacked = 10 << 20 // bytes
	maxEntries  = 8        // files in an archive
	maxParts    = 8        // attachments of a message that are tried
)

// unpack gives the document of an attachment: a file that is compressed with
// gzip, the one of a zip archive that looks like a report, or the bytes
// themselves. Errors are of kind Invalid.
func unpack(data []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(data, []byte("\x1f\x8b")):
		if len(data) > MaxPacked {
			return nil, kind.Errorf(kind.Invalid, "unpack report: more than %d bytes", MaxPacked)
		}
		g, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, kind.Errorf(kind.Invalid, "unpack report: %w", err)
		}
		g.Multistream(false)
		return bounded(g)
	case bytes.HasPrefix(data, []byte("PK\x03\x04")):
		return unzip(data)
	}
	return bounded(bytes.NewReader(data))
}

func unzip(data []byte) ([]byte, error) {
	if len(data) > MaxPacked {
		return nil, kind.Errorf(kind.Invalid, "unpack report: more than %d bytes", MaxPacked)
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, kind.Errorf(kind.Invalid, "unpack report: %w", err)
	}
	if len(z.File) > maxEntries {
		return nil, kind.Errorf(kind.Invalid, "unpack report: an archive of %d files", len(z.File))
	}
	for _, f := range z.File {
		if e := strings.ToLower(path.Ext(f.Name)); e != ".xml" && e != ".json" && len(z.File) > 1 || f.FileInfo().IsDir() {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return nil, kind.Errorf(kind.Invalid, "unpack report: %w", err)
		}
		defer r.Close()
		return bounded(r)
	}
	return nil, kind.Errorf(kind.Invalid, "unpack report: no report in the archive")
}

// bounded reads what is within the limit.
func bounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, MaxUnpacked+1))
	if err != nil {
		return nil, kind.Errorf(kind.Invalid, "unpack report: %w", err)
	}
	if len(b) > MaxUnpacked {
		return nil, kind.Errorf(kind.Invalid, "unpack report: more than %d bytes", MaxUnpacked)
	}
	return b, nil
}

// documents are the attachments of a message that may be reports, decoded and
// unpacked.
func documents(msg []byte) (out [][]byte) {
	parts, _ := message.Parts(msg)
	tried := 0
	for _, p := range parts {
		if !mayBeReport(p) {
			continue
		}
		if tried++; tried > maxParts {
			break
		}
		var r io.Reader = bytes.NewReader(msg[p.Start:p.End])
		switch p.Encoding {
		case "base64":
			r = base64.NewDecoder(base64.StdEncoding, r)
		case "quoted-printable":
			r = quotedprintable.NewReader(r)
		}
		b, err := bounded(r)
		if err != nil {
			continue
		}
		if b, err = unpack(b); err == nil {
			out = append(out, b)
		}
	}
	return out
}

// mayBeReport goes by type and name: senders disagree on both.
func mayBeReport(p message.Part) bool {
	switch p.Type {
	case "application/gzip", "application/x-gzip", "application/zip", "application/x-zip-compressed", "application/xml", "text/xml",
		"application/tlsrpt+gzip", "application/tlsrpt+json":
		return true
	}
	for _, n := range p.Names {
		switch strings.ToLower(path.Ext(n)) {
		case ".gz", ".zip", ".xml", ".json":
			return true
		}
	}
	return false
}
