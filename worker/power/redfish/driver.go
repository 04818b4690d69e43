// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"context"
	"strings"
	"sync"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// Kind is the name of this driver.
const Kind = "redfish"

// Keep is how long a worker keeps an idle connection: longer than the slowest interval
// of readings (power.md §6.3, 120 s).
const Keep = 150 * time.Second

// Driver reads and switches hosts over Redfish.
type Driver struct {
	idle shelf

	mu      sync.Mutex
	found   map[string]string    // key → path of the system, a hint only
	refused map[string]time.Time // key → a log-in refused within a transaction
}

// New makes the driver. Connections with basic authentication are kept for up to keep
// between transactions; 0 keeps none. Close ends them.
func New(keep time.Duration) *Driver {
	return &Driver{idle: shelf{keep: keep}, found: map[string]string{}, refused: map[string]time.Time{}}
}

// Kind returns "redfish".
func (d *Driver) Kind() string { return Kind }

// Close ends the kept connections; none is kept afterwards. It is idempotent.
func (d *Driver) Close() { d.idle.close() }

// Open connects and reads the system once, which proves certificate, log-in and, where
// one is pinned, identity. A kept connection has proven them before.
func (d *Driver) Open(ctx context.Context, t power.Target) (power.Conn, error) {
	cfg, err := d.config(t)
	if err != nil {
		return nil, err
	}
	c := &conn{config: cfg, driver: d}
	if e := d.waiting(c); e != nil {
		return nil, e
	}
	if ctx.Err() != nil {
		return nil, c.overdue(ctx, opening)
	}
	bounded, cancel := context.WithTimeout(ctx, cfg.limits.Command)
	defer cancel()
	if e := c.open(bounded); e != nil {
		_ = c.Close(ctx) // the error of the log-in is the one that matters
		return nil, e
	}
	c.opened = true
	return c, nil
}

// waiting: a log-in refused in the middle of a transaction is told again by the next Open,
// without traffic: the gate counts what Open says, and one try more than it counts
// could lock the account.
func (d *Driver) waiting(c *conn) *power.Error {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, is := d.refused[c.proof()]
	delete(d.refused, c.proof())
	left := retryAuth - time.Since(at)
	if !is || left <= 0 {
		return nil
	}
	return &power.Error{Kind: corepower.AuthFailed, Op: opening + " " + c.target.Address, RetryAfter: left,
		Detail: "this secret was refused a moment ago; not tried again"}
}

func (d *Driver) wasRefused(c *conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refused[c.proof()] = time.Now()
}

// where is the remembered path of the target's system.
func (d *Driver) where(c *conn) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.found[c.box()]
}

// remember keeps the path, or forgets it when it is "".
func (d *Driver) remember(c *conn, path string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if path == "" {
		delete(d.found, c.box())
		return
	}
	d.found[c.box()] = path
}

// box names a system of a service, as far as the target does.
func (c *conn) box() string { return c.scheme() + "://" + c.address + " " + c.target.Pinned.SystemUUID }

// proof names all that one good reading proves of a connection: the certificate's rules,
// the log-in and the pinned box. Kept connections go by it.
func (c *conn) proof() string {
	p := c.target.Pinned
	return strings.Join([]string{c.box(), c.mode, c.target.Params["ca_file"], strings.Join(c.certs, ","), c.config.system, p.Serial, c.cred.Version()}, "\x00")
}
