package node

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/access/dnsd"
	"github.com/postern-mail/postern/internal/org"
)

// dnsDoor keeps the DNS door open while its component is not Inactive. Draining
// only takes this server out of the answers: others still learn of the rest here.
type dnsDoor struct {
	build   func(prometheus.Registerer) (*dnsd.Door, error)
	wish    func() (org.ComponentState, <-chan struct{})
	figures *figures

	first *dnsd.Door    // not run yet
	ready chan struct{} // closed when it was open once, or is not to be
	once  sync.Once
	open  atomic.Bool
}

// newDNSDoor builds the door for the first time; an error is a mistake in the
// configuration.
func newDNSDoor(r prometheus.Registerer, wish func() (org.ComponentState, <-chan struct{}), build func(prometheus.Registerer) (*dnsd.Door, error)) (*dnsDoor, error) {
	d := &dnsDoor{build: build, wish: wish, figures: &figures{to: r}, ready: make(chan struct{})}
	var err error
	d.first, err = build(d.figures)
	return d, err
}

// run opens and shuts the door until ctx ends. A door that ends by itself ends it
// with its error.
func (d *dnsDoor) run(ctx context.Context) error {
	for ctx.Err() == nil {
		state, changed := d.wish()
		if state == org.Inactive {
			d.told()
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		if err := d.serve(ctx); err != nil {
			return err
		}
	}
	return nil
}

// serve runs one door until ctx ends or the component is Inactive.
func (d *dnsDoor) serve(ctx context.Context) error {
	door := d.first
	d.first = nil
	if door == nil {
		d.figures.forget()
		var err error
		if door, err = d.build(d.figures); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- door.Run(ctx) }()
	defer d.open.Store(false)
	ready := door.Ready()
	for {
		state, changed := d.wish()
		if state == org.Inactive {
			cancel()
			return <-ended
		}
		select {
		case <-ready:
			d.open.Store(true)
			d.told()
			ready = nil
		case <-changed:
		case err := <-ended:
			return err
		}
	}
}

func (d *dnsDoor) told() { d.once.Do(func() { close(d.ready) }) }

// now tells what the door does.
func (d *dnsDoor) now() (org.ComponentState, int) {
	state, _ := d.wish()
	if open := d.open.Load(); open != (state != org.Inactive) {
		return org.Draining, 0
	}
	return state, 0
}
