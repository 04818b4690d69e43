// SPDX-License-Identifier: Apache-2.0

package fenceagent

import (
	"errors"
	"maps"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/holdfast-ha/holdfast/worker/power"
)

// pretenders are agents whose "off" is not a power reading; those that cut storage or
// network say so in their metadata.
var pretenders = map[string]string{
	"fence_ack_manual":      "it believes a file; an operator's statement is driver manual",
	"fence_compute":         "it talks to a cloud's services, not to a host's power",
	"fence_crosslink":       "it switches a link, not power",
	"fence_dummy":           "it believes a file",
	"fence_evacuate":        "it talks to a cloud's services, not to a host's power",
	"fence_heuristics_ping": "it pings",
	"fence_kdump":           "it waits for a message of a dying kernel",
	"fence_kdump_send":      "it is the sender of fence_kdump",
	"fence_mpath":           "it cuts storage, not power",
	"fence_sbd":             "it writes to a disk and believes that the host obeys",
	"fence_scsi":            "it cuts storage, not power",
}

// ours are options that the driver sets, and why a target may not.
var ours = map[string]string{
	"action": "comes from the command", "option": "comes from the command",
	"ip": "is the target's address", "ipport": "is the port of the target's address",
	"username": "comes from the target's secret", "password": "comes from the target's secret",
	"method": "is always onoff: a cycle cannot be verified", "delay": "is always 0", "power_timeout": "follows from the deadline",
	"verbose": "would print secrets", "verbose_level": "would print secrets", "debug": "would print secrets",
	"quiet": "hides errors", "disable_timeout": "deadlines are ours", "help": "prints help", "version": "prints a version",
}

// dangerous reports whether an option names a program, a script or a file, or loosens
// how programs are run.
func dangerous(name string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
	for _, end := range []string{"_script", "_path", "_file", "_dir"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return slices.Contains([]string{"debug", "sudo", "use_sudo", "ssh_options", "exec", "serviceaccount", "runtime_config", "region_file"}, name)
}

// sensitive reports whether an option is a secret by its name.
func sensitive(name string) bool {
	name = strings.ReplaceAll(strings.ToLower(name), "-", "_")
	for _, word := range []string{"passw", "passphrase", "community", "token", "apikey", "api_key", "secret", "hexadecimal_kg"} {
		if strings.Contains(name, word) {
			return true
		}
	}
	return false
}

// lineSafe says why a value cannot go through an agent's standard input unchanged.
func lineSafe(v string) error {
	switch {
	case len(v) > maxText:
		return errors.New("too long, allowed are 1024 bytes")
	case strings.ContainsFunc(v, unicode.IsControl):
		return errors.New("control characters are not allowed: a line break would be another option")
	case strings.TrimRightFunc(v, unicode.IsSpace) != v:
		return errors.New("must not end in white space, which agents drop")
	case len(v) > 1 && strings.HasPrefix(v, `"`) && strings.HasSuffix(v, `"`):
		return errors.New("must not be in double quotes, which agents drop")
	}
	return nil
}

var addressForm = regexp.MustCompile(`^[A-Za-z0-9:][A-Za-z0-9._:%-]*$`)

// splitAddress reads HOST, HOST:PORT, [V6] or [V6]:PORT.
func splitAddress(a string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(a)
	if err != nil {
		host, port = strings.Trim(a, "[]"), ""
	} else if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", "", errors.New("no such port")
	}
	if !addressForm.MatchString(host) { // agents build command lines from it
		return "", "", errors.New("no host")
	}
	return host, port, nil
}

// options checks the agent's options of a target against its metadata, and adds those
// that are the same for each call. own are the driver's own parameters.
func options(m metadata, t power.Target, cred power.Credential, own map[string]string, allow []string) (map[string]string, *power.Error) {
	const op = "check fence agent target"
	agent, secretAs := own["agent"], own["secret_as"]
	out := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(t.Params)) {
		if _, mine := own[name]; mine {
			continue
		}
		v, key := t.Params[name], m.canonical(name)
		p, known := m.params[key]
		switch {
		case !known:
			return nil, power.BadConfig(op, "parameter %q: %s has no such option; it has %s", name, agent, strings.Join(m.offered(), ", "))
		case key == secretAs || sensitive(key):
			return nil, power.BadConfig(op, "parameter %q: is a secret; give it as the device's secret, with secret_as=%s", name, key)
		case ours[key] != "":
			return nil, power.BadConfig(op, "parameter %q: cannot be set, it %s", name, ours[key])
		case (dangerous(key) || dangerous(name)) && !slices.Contains(allow, key):
			return nil, power.BadConfig(op, "parameter %q: names a program or file, and the administrator of this worker has not allowed it", name)
		}
		if _, twice := out[key]; twice {
			return nil, power.BadConfig(op, "parameter %q: the option %s is there under two names", name, key)
		}
		if err := p.check(v); err != nil {
			return nil, power.BadConfig(op, "parameter %q: value %.80q: %v", name, v, err)
		}
		// fence_ipmilan builds a command line of them without quoting.
		if m.ipmitool() && (strings.HasPrefix(v, "-") || strings.ContainsFunc(v, unicode.IsSpace) || strings.ContainsAny(v, `"'\`)) {
			return nil, power.BadConfig(op, "parameter %q: value %q: allowed are plain words", name, v)
		}
		out[key] = v
	}
	set := func(name, v string) {
		if _, given := out[name]; !given && m.has(name) {
			out[name] = v
		}
	}
	if m.ipmitool() {
		if c, given := out["cipher"]; given && c != "3" && c != "17" {
			return nil, power.BadConfig(op, "parameter %q: value %q: allowed are 3, 17", "cipher", c)
		}
		if l, given := out["lanplus"]; given && l != "1" {
			return nil, power.BadConfig(op, "parameter %q: value %q: allowed is 1; without it nothing is encrypted", "lanplus", l)
		}
		set("lanplus", "1")
		set("privlvl", "operator")
		set("verbose_level", "2") // else a wrong password cannot be told from a dead device; it prints no secret
	}
	if m.has("snmp_version") {
		if v, given := out["snmp_version"]; given && v != "1" && v != "3" {
			return nil, power.BadConfig(op, "parameter %q: value %q: allowed are 1, 3; in SNMP 2c %s takes an outlet that is not there for one that is off", "snmp_version", v, agent)
		}
		set("snmp_version", "1") // some would choose 2c
	}
	set("method", "onoff")
	set("delay", "0")
	host, port, err := splitAddress(t.Address)
	switch {
	case err != nil:
		return nil, power.BadConfig(op, "address %q: %v, allowed is HOST or HOST:PORT", t.Address, err)
	case port != "" && !m.has("ipport"):
		return nil, power.BadConfig(op, "address %q: %s takes no port", t.Address, agent)
	}
	set("ip", host)
	if port != "" {
		set("ipport", port)
	}
	if secretAs == "none" {
		return out, nil
	}
	for _, s := range []struct{ field, option, value string }{{"user", "username", cred.User()}, {"password", secretAs, cred.Password()}} {
		if err := lineSafe(s.value); err != nil {
			return nil, power.BadConfig(op, "%s: %v", s.field, err)
		}
		if s.value != "" {
			set(s.option, s.value)
		}
	}
	return out, nil
}

// offered lists the options a target may set.
func (m metadata) offered() (names []string) {
	for name := range m.params {
		if m.renamed[name] == "" && ours[name] == "" && !dangerous(name) && !sensitive(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// input writes options as the lines an agent reads.
func input(options map[string]string) []byte {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(options)) {
		b.WriteString(name + "=" + options[name] + "\n")
	}
	return []byte(b.String())
}
