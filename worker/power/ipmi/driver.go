// SPDX-License-Identifier: Apache-2.0

package ipmi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/bougou/go-ipmi/pkg/types"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

// Kind is the name of this driver.
const Kind = "ipmi"

const (
	defaultPort  = "623"
	maxUser      = 16
	maxPassword  = 20
	safePassword = 16 // some devices cut longer ones (power.md §8.1)
)

// auto is the order in which suites are tried.
var auto = []string{"17", "3"}

var privileges = map[string]types.PrivilegeLevel{
	"user":          types.PrivilegeLevelUser,
	"operator":      types.PrivilegeLevelOperator,
	"administrator": types.PrivilegeLevelAdministrator,
}

// Driver reads and switches hosts over IPMI 2.0 / RMCP+.
type Driver struct {
	observe func(power.Target, Report)

	mu     sync.Mutex
	worked map[string]string // address → suite that worked last, a hint only
}

// New makes the driver. observe, when not nil, is told at the end of each connection
// on which the guard dropped hostile packets: a security event with counts.
func New(observe func(power.Target, Report)) *Driver {
	return &Driver{observe: observe, worked: map[string]string{}}
}

// Kind returns "ipmi".
func (d *Driver) Kind() string { return Kind }

// Describe returns the parameter schema and capabilities.
func (d *Driver) Describe() power.Descriptor {
	return power.Descriptor{
		Kind:    Kind,
		Summary: "IPMI 2.0 over LAN, cipher suites 17 and 3, each answer verified",
		Params: []power.Param{
			{Name: "cipher", Type: power.ParamString, Default: "auto", Allowed: []string{"auto", "17", "3"},
				Help: "cipher suite; auto tries 17, then 3, and remembers what worked"},
			{Name: "privilege", Type: power.ParamString, Default: "operator", Allowed: []string{"user", "operator", "administrator"},
				Help: "privilege of the session; user can read but not switch"},
		},
		Capabilities: power.Capabilities{
			Verbs:    []corepower.Verb{corepower.HardOff, corepower.HardOn, corepower.Reset, corepower.Cycle, corepower.SoftOff, corepower.Identify},
			Identity: true, Authentic: true, MaxAssurance: corepower.A3,
		},
	}
}

// config is a checked target.
type config struct {
	target    power.Target
	address   string
	params    map[string]string
	privilege types.PrivilegeLevel
	limits    power.Limits
	cred      power.Credential
}

func (d *Driver) config(t power.Target) (config, error) {
	const op = "check ipmi target"
	c := config{target: t, limits: t.Limits.WithDefaults()}
	c.limits.Retries = max(c.limits.Retries, 0)
	var err error
	if c.params, err = d.Describe().Values(t.Params); err != nil {
		return config{}, err
	}
	c.privilege = privileges[c.params["privilege"]]
	if c.address, err = address(t.Address); err != nil {
		return config{}, power.BadConfig(op, "address %q: %v, allowed is HOST or HOST:PORT", t.Address, err)
	}
	if c.cred, err = t.Secret.Resolve(); err != nil {
		return config{}, err
	}
	if n := len(c.cred.User()); n > maxUser {
		return config{}, power.BadConfig(op, "user: %d bytes, allowed are at most %d", n, maxUser)
	}
	if n := len(c.cred.Password()); n > maxPassword {
		return config{}, power.BadConfig(op, "password: %d bytes, allowed are at most %d; IPMI would cut the rest silently", n, maxPassword)
	}
	if strings.ContainsRune(c.cred.Password(), 0) {
		return config{}, power.BadConfig(op, "password: contains a zero byte, which IPMI takes for its end")
	}
	return c, nil
}

func address(a string) (string, error) {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		host, port = strings.Trim(a, "[]"), defaultPort
	}
	if host == "" || strings.ContainsAny(host, " /") {
		return "", errors.New("no host")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", fmt.Errorf("port %q", port)
	}
	return net.JoinHostPort(host, port), nil
}

// Check validates a target; it reads the secret but sends nothing.
func (d *Driver) Check(t power.Target) error {
	_, err := d.config(t)
	return err
}

// Warnings names settings that some devices cannot handle.
func (d *Driver) Warnings(t power.Target) []string {
	c, err := d.config(t)
	if err != nil || len(c.cred.Password()) <= safePassword {
		return nil
	}
	return []string{fmt.Sprintf("password: longer than %d bytes, which some devices cut or refuse", safePassword)}
}

// Open logs in with the configured suites. With a pinned identity it also reads the
// device's and answers IdentityMismatch for any other box.
func (d *Driver) Open(ctx context.Context, t power.Target) (power.Conn, error) {
	cfg, err := d.config(t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.limits.Command)
	defer cancel()
	order := d.order(cfg)
	for i, id := range order {
		c, e := d.login(ctx, cfg, suites[id])
		if e == nil {
			d.remember(cfg.address, id)
			return d.verify(ctx, c)
		}
		if !e.suite {
			return nil, e.err
		}
		if i == len(order)-1 {
			if e.err.Kind == corepower.Unsupported && len(order) > 1 {
				e.err.Kind, e.err.Detail = corepower.BadConfig, "the device offers no cipher suite allowed here: "+strings.Join(order, ", ")
			}
			return nil, e.err
		}
	}
	return nil, power.BadConfig("open session with "+t.Address, "no cipher suite is configured")
}

// order lists the suites to try, the one that worked last first.
func (d *Driver) order(c config) []string {
	if c.params["cipher"] != "auto" {
		return []string{c.params["cipher"]}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.worked[c.address] == "3" {
		return []string{"3", "17"}
	}
	return auto
}

func (d *Driver) remember(address, suite string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.worked[address] = suite
}

// loginError tells whether another suite may do.
type loginError struct {
	err   *power.Error
	suite bool
}

func (d *Driver) login(ctx context.Context, cfg config, su suite) (*conn, *loginError) {
	what := "open session with " + cfg.target.Address
	sock, err := dial(ctx, cfg.address)
	if err != nil {
		kind := corepower.Unreachable
		if ctx.Err() == context.Canceled {
			kind = corepower.Cancelled
		}
		return nil, &loginError{err: &power.Error{Kind: kind, Op: what, Detail: power.Detail(err.Error(), cfg.cred), Err: err}}
	}
	g := newGuard(sock, su, cfg.cred.User(), cfg.cred.Password(), byte(cfg.privilege), cfg.limits)
	c := &conn{config: cfg, guard: g, observe: d.observe}
	if e := c.login(ctx); e != nil {
		other := g.wantsOtherSuite()
		_ = c.Close(ctx) // gives a half-open session back; the log-in error is the one that matters
		return nil, &loginError{err: e, suite: other}
	}
	return c, nil
}

// dial connects a socket; an address needs no resolver, which is the dearer part.
func dial(ctx context.Context, address string) (net.Conn, error) {
	if to, err := netip.ParseAddrPort(address); err == nil && ctx.Err() == nil {
		return net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	}
	var dialer net.Dialer
	return dialer.DialContext(ctx, "udp", address)
}

// verify compares the identity with the pinned one and closes the connection otherwise.
func (d *Driver) verify(ctx context.Context, c *conn) (power.Conn, error) {
	if c.target.Pinned == (corepower.Identity{}) {
		return c, nil
	}
	// The log-in carried the system GUID too, and the password proved it: a box that shows
	// the enrolled one there need not be asked again. A sync sweep is cheaper by a sixth.
	if guid := c.guard.guid(); guid != [16]byte{} && c.target.Pinned.Matches(corepower.Identity{SystemUUID: formatGUID(guid)}) {
		return c, nil
	}
	got, err := c.Identity(ctx)
	if err == nil && !c.target.Pinned.Matches(got) {
		err = &power.Error{Kind: corepower.IdentityMismatch, Op: "verify identity of " + c.target.Address,
			Detail: power.Detail(fmt.Sprintf("the device says %q, enrolled is %q", got.SystemUUID, c.target.Pinned.SystemUUID), c.cred)}
	}
	if err != nil {
		_ = c.Close(ctx)
		return nil, err
	}
	return c, nil
}
