// SPDX-License-Identifier: Apache-2.0

package virsh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// Kind is the name of this driver.
const Kind = "libvirt"

// Driver switches virtual machines.
type Driver struct {
	runner *proc.Runner
	path   string
}

// New makes the driver. virsh runs on runner; path is where it is, "" for /usr/bin/virsh.
func New(runner *proc.Runner, path string) *Driver {
	return &Driver{runner, cmp.Or(path, "/usr/bin/virsh")}
}

// Kind returns "libvirt".
func (d *Driver) Kind() string { return Kind }

// Describe returns the parameter schema and capabilities.
func (d *Driver) Describe() power.Descriptor {
	return power.Descriptor{
		Kind:    Kind,
		Summary: "a virtual machine as host, through virsh; the address is the connection, like qemu+ssh://outer/system",
		Params: []power.Param{
			{Name: "domain", Type: power.ParamString, Required: true, Help: "name or UUID of the virtual machine"},
			{Name: "trusted", Type: power.ParamBool, Default: "false",
				Help: "the administrator vouches for the path to the hypervisor: needed for connections that do not prove who answers"},
		},
		Capabilities: power.Capabilities{
			Verbs:    []corepower.Verb{corepower.HardOff, corepower.HardOn, corepower.Reset, corepower.SoftOff},
			Identity: true, Authentic: true, Blocking: true, MaxAssurance: corepower.A3,
		},
	}
}

// config is a checked target.
type config struct {
	target power.Target
	domain string
	limits power.Limits
}

func (d *Driver) config(t power.Target) (config, error) {
	const op = "check libvirt target"
	own, err := d.Describe().Values(t.Params)
	if err != nil {
		return config{}, err
	}
	domain := own["domain"]
	if domain == "" || strings.HasPrefix(domain, "-") || len(domain) > 256 {
		return config{}, power.BadConfig(op, "parameter %q: value %.80q: allowed is a name or UUID, at most 256 bytes, not beginning with -", "domain", domain)
	}
	trusted, _ := strconv.ParseBool(own["trusted"]) // checked by Values
	proves, err := checkURI(t.Address)
	switch {
	case err != nil:
		return config{}, power.BadConfig(op, "address %.80q: %v", power.Detail(withoutUser(t.Address), power.Credential{}), err)
	case !proves && !trusted:
		return config{}, power.BadConfig(op, "address %q: nothing on this connection proves who answers; allowed are tls, ssh and local ones, or trusted=true", t.Address)
	}
	if e := proc.Executable(op, d.path); e != nil {
		return config{}, e
	}
	return config{target: t, domain: domain, limits: t.Limits.WithDefaults()}, nil
}

// Parts of a connection that are allowed. Others name programs or sockets.
var (
	hypervisors = []string{"qemu", "ch", "bhyve", "xen", "vbox", "lxc", "test"}
	transports  = []string{"", "unix", "tls", "ssh", "libssh", "libssh2", "tcp"}
	queries     = []string{"pkipath", "keyfile", "known_hosts", "no_verify", "no_tty", "mode"}
)

// checkURI says whether a connection proves who answers, and why it cannot be used.
func checkURI(uri string) (proves bool, err error) {
	u, err := url.Parse(uri)
	if err != nil || strings.ContainsFunc(uri, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return false, errors.New("allowed is a connection like qemu+ssh://host/system") // the library's error repeats the text
	}
	hypervisor, transport, _ := strings.Cut(u.Scheme, "+")
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return false, errors.New("the part after ? is malformed")
	}
	if transport == "" && u.Host != "" {
		transport = "tls" // libvirt's default for a remote one
	}
	_, password := u.User.Password()
	switch {
	case !slices.Contains(hypervisors, hypervisor):
		return false, fmt.Errorf("hypervisor %q: allowed are %s", hypervisor, strings.Join(hypervisors, ", "))
	case !slices.Contains(transports, transport):
		return false, fmt.Errorf("transport %q: allowed are%s", transport, strings.Join(transports, " "))
	case u.Opaque != "" || u.Fragment != "":
		return false, errors.New("allowed is a connection like qemu+ssh://host/system")
	case password:
		return false, errors.New("a password is not allowed in it")
	case strings.HasPrefix(u.Hostname(), "-") || strings.HasPrefix(u.User.Username(), "-"):
		return false, errors.New("user and host must not begin with -")
	}
	for name, values := range query {
		if !slices.Contains(queries, name) || len(values) != 1 || strings.HasPrefix(values[0], "-") {
			return false, fmt.Errorf("%q after ?: allowed, once each, are %s", name, strings.Join(queries, ", "))
		}
	}
	return transport != "tcp" && !query.Has("no_verify"), nil
}

// withoutUser keeps what could be a password out of an error.
func withoutUser(uri string) string {
	scheme, rest, ok := strings.Cut(uri, "://")
	if i := strings.LastIndexByte(rest, '@'); ok && i >= 0 {
		return scheme + "://…@" + rest[i+1:]
	}
	return uri
}

// Check validates a target; it runs nothing.
func (d *Driver) Check(t power.Target) error {
	_, err := d.config(t)
	return err
}

// Open checks the target; each call makes its own connection. With a pinned identity it
// reads the domain's UUID and answers IdentityMismatch for another.
func (d *Driver) Open(ctx context.Context, t power.Target) (power.Conn, error) {
	op := "open session with " + t.Address
	if ctx.Err() == context.Canceled {
		return nil, &power.Error{Kind: corepower.Cancelled, Op: op, Err: context.Cause(ctx)}
	}
	cfg, err := d.config(t)
	if err != nil {
		return nil, err
	}
	c := &conn{config: cfg, runner: d.runner, path: d.path}
	if t.Pinned == (corepower.Identity{}) {
		return c, nil
	}
	got, err := c.Identity(ctx)
	if err == nil && !t.Pinned.Matches(got) {
		err = &power.Error{Kind: corepower.IdentityMismatch, Op: op, Detail: fmt.Sprintf("the domain is %q, enrolled is %q", got.SystemUUID, t.Pinned.SystemUUID)}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}
