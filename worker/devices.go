// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/coordinator/power"
	v1 "github.com/holdfast-ha/holdfast/worker/api/v1"
	wpower "github.com/holdfast-ha/holdfast/worker/power"
	"github.com/holdfast-ha/holdfast/worker/power/execdriver"
	"github.com/holdfast-ha/holdfast/worker/power/ipmi"
	"github.com/holdfast-ha/holdfast/worker/power/manual"
	"github.com/holdfast-ha/holdfast/worker/power/pdu"
	"github.com/holdfast-ha/holdfast/worker/power/redfish"
)

// originHost is the origin of what a host's own declaration says.
const originHost = "declaration"

// device is one power device as it is effective: the declaration, over the profiles of
// the host's scopes, over what its driver says (power.md §9.6).
type device struct {
	v1.Device
	driver  wpower.Driver // nil: there is no such kind
	proves  power.Assurance
	human   bool              // nothing to read or command: an operator's word
	origins map[string]string // by field, as in power.ProfileFields after the device's name
	config  string            // changes with anything that a power test should see
}

// defaultLevel is BMC → PDU → manual (power.md §9.1).
func defaultLevel(kind string) int {
	switch kind {
	case pdu.Kind:
		return 2
	case manual.Kind:
		return 4
	}
	return 1
}

// devices are the effective power devices of a host, in the order of its declaration.
func (w *Worker) devices(spec v1.HostSpec, p power.Profile) []device {
	out := make([]device, 0, len(spec.Power))
	for _, d := range spec.Power {
		out = append(out, w.effectiveDevice(spec, d, p))
	}
	return out
}

func (w *Worker) effectiveDevice(spec v1.HostSpec, own v1.Device, p power.Profile) device {
	d := device{Device: own, origins: map[string]string{}}
	text := func(name string, field *string) {
		v, inherited := p.Get("device." + own.Name + "." + name)
		switch {
		case *field != "":
			d.origins[name] = originHost
		case inherited:
			*field, d.origins[name] = strings.ReplaceAll(v.Value, "{host}", spec.ID), v.Origin
		}
	}
	profiled, _ := p.Get("device." + own.Name + ".driver")
	text("driver", &d.Driver)
	text("address", &d.Address)
	text("user", &d.User)
	text("secret", &d.Secret)
	text("assurance", &d.Assurance)
	d.Params = map[string]string{}
	if d.Driver == profiled.Value || profiled.Value == "" { // of another driver otherwise
		for name, v := range p.Params(own.Name) {
			d.Params[name], d.origins["param."+name] = v.Value, v.Origin
		}
	}
	for name, v := range own.Params {
		d.Params[name], d.origins["param."+name] = v, originHost
	}
	if d.Driver == execdriver.ProviderKind { // one program for all that it is asked
		eff := w.view.effective(spec.Partition, spec.ID, time.Now())
		d.Params["program"], d.origins["param.program"] = eff.Value(settingProgram)
	}
	d.driver, _ = w.drivers.Driver(d.Driver)
	level := strconv.Itoa(own.Level)
	if own.Level == 0 {
		level = ""
	}
	if text("level", &level); level == "" {
		level = strconv.Itoa(defaultLevel(d.Driver))
		d.origins["level"] = "driver"
	}
	d.Level, _ = strconv.Atoi(level) // checked where it was written
	d.proves = power.A0
	if d.driver != nil {
		caps := d.driver.Describe().Capabilities
		d.human = len(caps.Verbs) == 0
		d.proves = caps.MaxAssurance
	}
	if d.Assurance != "" && d.proves.UnmarshalText([]byte(d.Assurance)) != nil {
		d.proves = power.A0
	} else if d.Assurance == "" {
		d.origins["assurance"] = "driver"
	}
	d.config = configOf(d, w.sealedAs(spec.ID, d.Device))
	return d
}

func (d device) canSwitchOn() bool {
	return d.driver != nil && slices.Contains(d.driver.Describe().Capabilities.Verbs, power.HardOn)
}

// feeds reports whether the device cuts the host's mains.
func (d device) feeds() bool {
	return d.driver != nil && !d.human && d.driver.Describe().Capabilities.Independent
}

// configOf names all that decides who answers and how; it holds no secret.
func configOf(d device, sealed string) string {
	b, err := json.Marshal([]any{d.Driver, d.Address, d.User, d.Secret, sealed, d.Params, d.Identity, d.Enrolment})
	if err != nil { // strings and integers only
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}

// device finds one of the host's effective devices.
func (o *owner) device(name string) (device, bool) {
	i := slices.IndexFunc(o.devices, func(d device) bool { return d.Name == name })
	if i < 0 {
		return device{}, false
	}
	return o.devices[i], true
}

// ladderOf makes the levels of the devices (power.md §9.1). All devices of a level must
// be off, unless it is said otherwise or all are paths to one BMC. least is the weakest
// proof that counts.
func ladderOf(devices []device, p power.Profile, least power.Assurance) []power.Level {
	byLevel := map[int][]device{}
	for _, d := range devices {
		byLevel[d.Level] = append(byLevel[d.Level], d)
	}
	var out []power.Level
	for n, ds := range byLevel {
		lv := power.Level{N: n, All: true, Min: least, Human: true}
		paths := len(ds) > 1
		for _, d := range ds {
			lv.Devices = append(lv.Devices, d.Name)
			lv.Human = lv.Human && d.human
			paths = paths && (d.Driver == ipmi.Kind || d.Driver == redfish.Kind)
			if d.proves != power.A3 {
				if lv.Ceilings == nil {
					lv.Ceilings = map[string]power.Assurance{}
				}
				lv.Ceilings[d.Name] = d.proves
			}
			if d.feeds() {
				lv.Feeds = append(lv.Feeds, d.Name)
			}
		}
		lv.All = !paths
		key := fmt.Sprintf("level.%d.", n)
		if v, ok := p.Get(key + "mode"); ok {
			lv.All = v.Value == "all"
		}
		if v, ok := p.Get(key + "deadline"); ok {
			lv.Deadline = duration(v.Value)
		}
		if v, ok := p.Get(key + "assurance"); ok {
			lv.Min = max(least, assurance(v.Value))
		}
		if lv.Human {
			lv = power.Level{N: n, Devices: lv.Devices, Human: true}
		}
		out = append(out, lv)
	}
	slices.SortFunc(out, func(a, b power.Level) int { return cmp.Compare(a.N, b.N) })
	return out
}

// checkDevices says what is wrong with a host's power devices as they would be effective;
// each problem names its field, the value and what is allowed.
func (w *Worker) checkDevices(spec v1.HostSpec, p power.Profile) (errs []error) {
	fail := func(i int, name, format string, args ...any) {
		field := fmt.Sprintf("power[%d].%s", i, name)
		errs = append(errs, badField(field, field+": "+fmt.Sprintf(format, args...)))
	}
	devices := w.devices(spec, p)
	feeds := 0 // level of those that cut the host's mains
	for i, d := range devices {
		if d.Level < 1 || d.Level > 9 {
			fail(i, "level", "%d, allowed are 1 to 9", d.Level)
		}
		if program, set := spec.Power[i].Params["program"]; set && d.Driver == execdriver.ProviderKind {
			fail(i, "params.program", "%q, allowed is none: it is that of setting %s", program, settingProgram)
		}
		if d.driver == nil {
			fail(i, "driver", "%q (%s), allowed are %s", d.Driver, cmp.Or(d.origins["driver"], "no profile names one for device "+d.Name), strings.Join(w.drivers.Kinds(), ", "))
			continue
		}
		caps := d.driver.Describe().Capabilities
		most := caps.MaxAssurance
		if most == power.A2 {
			most = power.A3 // an administrator may vouch for a program of his own (power.md §8.4)
		}
		switch a := d.proves; {
		case d.Assurance != "" && new(power.Assurance).UnmarshalText([]byte(d.Assurance)) != nil:
			fail(i, "assurance", "%q, allowed are A0 to %s", d.Assurance, most)
		case a > most:
			fail(i, "assurance", "%s, allowed with driver %s are A0 to %s", a, d.Driver, most)
		}
		// A sealed secret is set later, or opened by another worker.
		if _, err := w.target(spec.ID, d, power.Identity{}, wpower.Limits{}.WithDefaults()); err != nil && !errors.Is(err, errSealed) {
			errs = append(errs, badField(fmt.Sprintf("power[%d]", i), fmt.Sprintf("power[%d]: device %s: %v", i, d.Name, err)))
		}
		if d.feeds() {
			if feeds != 0 && feeds != d.Level {
				fail(i, "level", "%d, allowed is %d: all that feeds the host is cut together, or nothing is proven", d.Level, feeds)
			}
			feeds = d.Level
		}
	}
	for _, lv := range ladderOf(devices, p, power.A0) {
		for i, d := range devices {
			switch {
			case d.Level != lv.N:
			case d.human && !lv.Human:
				fail(i, "level", "%d, allowed is a level of its own: device %s is a human", d.Level, d.Name)
			case d.human && slices.ContainsFunc(devices, func(o device) bool { return o.Level > d.Level }):
				fail(i, "level", "%d, allowed is the last one: what comes after a human is never tried", d.Level)
			case d.feeds() && !lv.All && len(lv.Devices) > 1:
				fail(i, "level", "%d is of mode any, allowed for what feeds the host is mode all: the others feed it, too", d.Level)
			}
		}
	}
	return errs
}

// target is one device ready to be opened.
type target struct {
	wpower.Target
	driver wpower.Driver
	device device
	test   bool // read all that a power test asks for
}

// targets resolves the devices that can be talked to; one that is configured wrongly is
// an error of its own and does not hide the others.
func (o *owner) targets() ([]target, []deviceReading) {
	var out []target
	var bad []deviceReading
	for _, d := range o.devices {
		if d.human {
			continue
		}
		t, err := o.w.target(o.host, d, o.pinned(d), o.powerLimits())
		if err != nil {
			bad = append(bad, deviceReading{device: d.Name, asked: o.now(), err: err, tested: true, testErr: err, depth: depthNone, steps: []string{"configuration: " + errText(err)}})
			continue
		}
		out = append(out, t)
	}
	return out, bad
}

// pinned is the identity that a test pinned, unless the device was enrolled anew since.
func (o *owner) pinned(d device) power.Identity {
	if rec := o.pow.Devices[d.Name]; rec.Enrolment == d.Enrolment {
		return rec.Pinned
	}
	return power.Identity{}
}

func declaredIdentity(d device) power.Identity {
	return power.Identity{SystemUUID: d.Identity.SystemUUID, Serial: d.Identity.Serial, Fingerprint: d.Identity.Fingerprint}
}

func (w *Worker) target(host string, d device, pinned power.Identity, l wpower.Limits) (target, error) {
	if d.driver == nil {
		_, err := w.drivers.Driver(d.Driver)
		return target{}, err
	}
	secret, err := w.secretOf(host, d.Device)
	if err != nil {
		return target{}, err
	}
	return w.targetWith(host, d, secret, pinned, l)
}

// targetWith is an effective device with any credentials.
func (w *Worker) targetWith(host string, d device, secret wpower.Secret, pinned power.Identity, l wpower.Limits) (target, error) {
	t := target{driver: d.driver, device: d, Target: wpower.Target{
		Host: host, Device: d.Name, Address: d.Address, Params: maps.Clone(d.Params), Secret: secret, Limits: l, Pinned: declaredIdentity(d),
	}}
	if t.Pinned == (power.Identity{}) {
		t.Pinned = pinned
	}
	return t, d.driver.Check(t.Target)
}

func (o *owner) powerLimits() wpower.Limits {
	return wpower.Limits{
		Packet: o.policy.Fence.PacketTimeout, Answer: o.policy.Fence.StatusDeadline, Command: o.policy.Fence.CommandDeadline,
		Gap: o.eff.Duration("power.session.gap"),
	}
}
