package authn

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
)

// zone is a resolver of a fixed set of records, names in lower case.
type zone struct {
	txt   map[string][]string
	mx    map[string][]*net.MX
	ip    map[string][]net.IPAddr
	ptr   map[string][]string
	cname map[string]string
	fault map[string]error
	hang  map[string]bool // answers when the context ends

	mu    sync.Mutex
	asked []string // names of TXT look-ups
}

func texts(pairs ...string) *zone {
	z := &zone{txt: map[string][]string{}, fault: map[string]error{}, hang: map[string]bool{}}
	for i := 0; i < len(pairs); i += 2 {
		z.txt[pairs[i]] = append(z.txt[pairs[i]], pairs[i+1])
	}
	return z
}

func key(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

func (z *zone) find(ctx context.Context, name string) (string, error) {
	name = key(name)
	for range 10 {
		if z.hang[name] {
			<-ctx.Done()
			return "", ctx.Err()
		}
		if err := z.fault[name]; err != nil {
			return "", err
		}
		to, ok := z.cname[name]
		if !ok {
			return name, nil
		}
		name = key(to)
	}
	return "", errors.New("loop")
}

func lookup[T any](ctx context.Context, z *zone, m map[string][]T, name string) ([]T, error) {
	name, err := z.find(ctx, name)
	if err != nil {
		return nil, err
	}
	if got := m[name]; len(got) > 0 {
		return slices.Clone(got), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (z *zone) LookupTXT(ctx context.Context, name string) ([]string, error) {
	z.mu.Lock()
	z.asked = append(z.asked, name)
	z.mu.Unlock()
	return lookup(ctx, z, z.txt, name)
}
func (z *zone) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	return lookup(ctx, z, z.mx, name)
}
func (z *zone) LookupIPAddr(ctx context.Context, name string) ([]net.IPAddr, error) {
	return lookup(ctx, z, z.ip, name)
}
func (z *zone) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	return lookup(ctx, z, z.ptr, addr)
}

// Exists is true for a name with a record or with one below it.
func (z *zone) Exists(ctx context.Context, name string) (bool, error) {
	name, err := z.find(ctx, name)
	if err != nil {
		return false, err
	}
	for n := range z.txt {
		if under(n, name) {
			return true, nil
		}
	}
	_, ok := z.ip[name]
	return ok, nil
}
