// SPDX-License-Identifier: Apache-2.0

package fenceagent

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/proc"
)

// Kind is the name of this driver.
const Kind = "fenceagent"

const (
	metadataWait  = 5 * time.Second
	metadataRetry = time.Minute // after an agent that could not tell its metadata
)

// Options are an administrator's choices for all targets. The zero value is safe.
type Options struct {
	Dir         string   // where the agents are: /usr/sbin
	Allow       []string // options a target may set although they name programs or files
	AllowAgents []string // agents that are believed although their "off" is no power reading
}

// Driver runs fence agents.
type Driver struct {
	runner *proc.Runner
	o      Options

	mu    sync.Mutex
	known map[string]*known // by path
}

// known is an agent's metadata, read once for each version of its file.
type known struct {
	version string
	done    chan struct{} // closed when the fields below are set
	meta    metadata
	err     *power.Error
	until   time.Time // zero: as long as the version lasts
}

// New makes the driver. Agents run on runner.
func New(runner *proc.Runner, o Options) *Driver {
	o.Dir = cmp.Or(o.Dir, "/usr/sbin")
	return &Driver{runner: runner, o: o, known: map[string]*known{}}
}

// Kind returns "fenceagent".
func (d *Driver) Kind() string { return Kind }

// Describe returns the driver's own parameters; the agent's options are parameters too.
func (d *Driver) Describe() power.Descriptor {
	return power.Descriptor{
		Kind:    Kind,
		Summary: "any ClusterLabs fence agent; its options are parameters besides these",
		Params: []power.Param{
			{Name: "agent", Type: power.ParamString, Required: true, Help: "name of the agent, like fence_apc_snmp"},
			{Name: "secret_as", Type: power.ParamString, Default: "password", Help: "option that gets the secret, like community; none for an agent without log-in"},
			{Name: "trusted", Type: power.ParamBool, Default: "false",
				Help: "the administrator vouches for the path to the device: nobody else can answer there. Without it OFF proves nothing"},
		},
		Capabilities: power.Capabilities{
			Verbs:    []corepower.Verb{corepower.HardOff, corepower.HardOn, corepower.Cycle},
			Identity: true, Blocking: true, MaxAssurance: corepower.A3,
		},
	}
}

// config is a checked target.
type config struct {
	target  power.Target
	agent   string
	path    string
	meta    metadata
	options map[string]string
	trusted bool
	limits  power.Limits
	cred    power.Credential
}

var agentForm = regexp.MustCompile(`^fence_[a-z0-9_]{1,40}$`)

func (d *Driver) config(ctx context.Context, t power.Target) (config, *power.Error) {
	const op = "check fence agent target"
	own := map[string]string{}
	for _, p := range d.Describe().Params {
		if v, set := t.Params[p.Name]; set {
			own[p.Name] = v
		}
	}
	own, err := d.Describe().Values(own)
	if err != nil {
		return config{}, asError(err)
	}
	c := config{target: t, agent: own["agent"], limits: t.Limits.WithDefaults()}
	if !agentForm.MatchString(c.agent) {
		return config{}, power.BadConfig(op, "parameter %q: value %q: allowed is the name of a program like fence_apc_snmp", "agent", c.agent)
	}
	if why := pretenders[c.agent]; why != "" && !slices.Contains(d.o.AllowAgents, c.agent) {
		return config{}, power.BadConfig(op, "parameter %q: %s cannot prove that a host is off: %s", "agent", c.agent, why)
	}
	c.path = filepath.Join(d.o.Dir, c.agent)
	var e *power.Error
	if c.meta, e = d.metadata(ctx, c.path); e != nil {
		return config{}, e
	}
	switch secretAs := own["secret_as"]; {
	case c.meta.fabric && !slices.Contains(d.o.AllowAgents, c.agent):
		return config{}, power.BadConfig(op, "parameter %q: %s cuts storage or network, not power", "agent", c.agent)
	case !c.meta.can("off") || !c.meta.can("on"):
		return config{}, power.BadConfig(op, "parameter %q: %s knows no off and on", "agent", c.agent)
	case secretAs == "none":
	case !c.meta.has(secretAs) || c.meta.renamed[secretAs] != "" || !sensitive(secretAs) || dangerous(secretAs):
		return config{}, power.BadConfig(op, "parameter %q: value %q: %s has no such secret option, allowed are %s", "secret_as", secretAs, c.agent, strings.Join(c.meta.secrets(), ", "))
	default:
		if c.cred, err = t.Secret.Resolve(); err != nil {
			return config{}, asError(err)
		}
	}
	c.trusted, _ = strconv.ParseBool(own["trusted"]) // checked by Values
	if c.trusted && c.meta.ipmitool() {
		return config{}, power.BadConfig(op, "parameter %q: %s calls ipmitool, which takes forged answers; use driver ipmi", "trusted", c.agent)
	}
	if c.options, e = options(c.meta, t, c.cred, own, d.o.Allow); e != nil {
		return config{}, e
	}
	return c, nil
}

// secrets lists what secret_as can be.
func (m metadata) secrets() []string {
	names := []string{"none"}
	for name := range m.params {
		if m.renamed[name] == "" && sensitive(name) && !dangerous(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func asError(err error) *power.Error {
	if e, ok := err.(*power.Error); ok { // the port's checks return nothing else
		return e
	}
	return power.BadConfig("check fence agent target", "%v", err)
}

// metadata returns what the agent says about itself, from memory while its file is the
// same. At most one process per agent asks; the others wait for it.
func (d *Driver) metadata(ctx context.Context, path string) (metadata, *power.Error) {
	op := "read metadata of " + filepath.Base(path)
	if e := proc.Executable(op, path); e != nil {
		return metadata{}, e
	}
	st, err := os.Stat(path)
	if err != nil {
		return metadata{}, &power.Error{Kind: corepower.ToolMissing, Op: op, Err: err}
	}
	version := fmt.Sprint(st.Size(), st.ModTime().UnixNano())
	for {
		d.mu.Lock()
		k := d.known[path]
		mine := k == nil || k.version != version || k.expired()
		if mine {
			k = &known{version: version, done: make(chan struct{})}
			d.known[path] = k
		}
		d.mu.Unlock()
		if mine {
			k.meta, k.err = d.ask(ctx, op, path)
			k.until = time.Time{}
			if k.err != nil {
				k.until = time.Now().Add(metadataRetry)
			}
			if ctx.Err() != nil { // it says nothing of the agent that we had no time
				k.until = time.Now()
			}
			close(k.done)
			return k.meta, k.err
		}
		select {
		case <-k.done:
			if !k.expired() {
				return k.meta, k.err
			}
		case <-ctx.Done():
			e := &power.Error{Kind: corepower.DeadlinePassed, Op: op, Err: context.Cause(ctx)}
			if ctx.Err() == context.Canceled {
				e.Kind = corepower.Cancelled
			}
			return metadata{}, e
		}
	}
}

func (k *known) expired() bool {
	select {
	case <-k.done:
		return !k.until.IsZero() && !time.Now().Before(k.until)
	default:
		return false
	}
}

func (d *Driver) ask(ctx context.Context, op, path string) (metadata, *power.Error) {
	ctx, cancel := context.WithTimeout(ctx, metadataWait)
	defer cancel()
	res, e := d.runner.Run(ctx, proc.Command{Op: op, Path: path, Args: []string{"-o", "metadata"}, Env: agentEnv})
	if e != nil {
		return metadata{}, e
	}
	m, err := parseMetadata(res.Stdout)
	if err != nil {
		return metadata{}, &power.Error{Kind: corepower.ProtocolViolation, Op: op, Code: res.Exit, Detail: power.Detail(err.Error(), power.Credential{}), Err: err}
	}
	return m, nil
}

// agentEnv keeps Python from writing byte code and from loading a user's modules.
var agentEnv = []string{"PYTHONDONTWRITEBYTECODE=1", "PYTHONNOUSERSITE=1", "PYTHONWARNINGS=ignore", "PYTHONUTF8=1"}

// Check validates a target; the first time it asks the agent for its metadata, which
// sends nothing to the device and takes 5 s at most.
func (d *Driver) Check(t power.Target) error {
	if _, e := d.config(context.Background(), t); e != nil {
		return e
	}
	return nil
}

// Warnings names settings that weaken what a reading proves.
func (d *Driver) Warnings(t power.Target) (out []string) {
	c, e := d.config(context.Background(), t)
	if e != nil {
		return nil
	}
	if !c.trusted {
		out = append(out, c.agent+": its readings are not tied to our credentials; OFF read through it proves nothing unless trusted=true")
	}
	if v := c.options["ssl_insecure"]; v == "1" || strings.EqualFold(v, "true") {
		out = append(out, "ssl_insecure: anybody on the path can answer for the device")
	}
	if !c.meta.can("status") {
		out = append(out, c.agent+": cannot read the power state; what it switches off is never proven off (A1)")
	}
	return out
}

// Open checks the target; an agent has no sessions. With a pinned identity it reads the
// target's and answers IdentityMismatch for another.
func (d *Driver) Open(ctx context.Context, t power.Target) (power.Conn, error) {
	op := "open session with " + t.Address
	if ctx.Err() == context.Canceled {
		return nil, &power.Error{Kind: corepower.Cancelled, Op: op, Err: context.Cause(ctx)}
	}
	cfg, e := d.config(ctx, t)
	if e != nil {
		return nil, e
	}
	c := &conn{config: cfg, runner: d.runner}
	if t.Pinned == (corepower.Identity{}) {
		return c, nil
	}
	got, err := c.Identity(ctx)
	if err != nil {
		return nil, err
	}
	if !t.Pinned.Matches(got) {
		return nil, &power.Error{Kind: corepower.IdentityMismatch, Op: op, Detail: power.Detail(fmt.Sprintf("agent, address, outlet and its label give %q, enrolled is %+v", got.Fingerprint, t.Pinned), cfg.cred)}
	}
	return c, nil
}
