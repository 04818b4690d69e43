// SPDX-License-Identifier: Apache-2.0

package redfish

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	corepower "github.com/holdfast-ha/holdfast/coordinator/power"
	"github.com/holdfast-ha/holdfast/worker/power"
)

const (
	maxPath = 512
	maxCA   = 1 << 20
)

// How the service proves who it is.
const (
	tlsPin      = "pin"
	tlsCA       = "ca"
	tlsInsecure = "insecure"
	tlsOff      = "off"
)

// Describe returns the parameter schema and capabilities.
func (d *Driver) Describe() power.Descriptor {
	return power.Descriptor{
		Kind:    Kind,
		Summary: "Redfish over HTTPS, one GET per reading, certificate and system pinned",
		Params: []power.Param{
			{Name: "system", Type: power.ParamString, Help: "path of the system, for example /redfish/v1/Systems/1; empty finds the only one, or the pinned one of several"},
			{Name: "auth", Type: power.ParamString, Default: "basic", Allowed: []string{"basic", "session"}, Help: "session logs in and out for each transaction"},
			{Name: "tls", Type: power.ParamString, Default: tlsPin, Allowed: []string{tlsPin, tlsCA, tlsInsecure, tlsOff},
				Help: "pin accepts the enrolled certificate only, ca what ca_file or the system's roots sign; insecure and off prove nothing and cannot fence"},
			{Name: "fingerprint", Type: power.ParamString, Help: "SHA-256 of the certificate in hex, to pin it before enrolment"},
			{Name: "ca_file", Type: power.ParamString, Help: "PEM file of the authorities for tls=ca; empty for the system's roots"},
		},
		Capabilities: power.Capabilities{
			Verbs:    []corepower.Verb{corepower.HardOff, corepower.HardOn, corepower.Reset, corepower.Cycle, corepower.SoftOff, corepower.Identify},
			Identity: true, Authentic: true, MaxAssurance: corepower.A3,
		},
	}
}

// config is a checked target.
type config struct {
	target  power.Target
	address string // host:port
	host    string
	mode    string
	basic   bool
	system  string   // "" when it is to be found
	certs   []string // fingerprints the certificate must have, all of them
	ca      *x509.CertPool
	limits  power.Limits
	cred    power.Credential
}

// authentic reports whether answers are tied to a proven service.
func (c config) authentic() bool { return c.mode == tlsCA || c.mode == tlsPin && len(c.certs) > 0 }

func (c config) scheme() string {
	if c.mode == tlsOff {
		return "http"
	}
	return "https"
}

func (d *Driver) config(t power.Target) (config, error) {
	const op = "check redfish target"
	p, err := d.Describe().Values(t.Params)
	if err != nil {
		return config{}, err
	}
	c := config{target: t, limits: t.Limits.WithDefaults(), mode: p["tls"], basic: p["auth"] == "basic"}
	if c.host, c.address, err = address(t.Address, c.scheme()); err != nil {
		return config{}, power.BadConfig(op, "address %q: %v, allowed is HOST or HOST:PORT", t.Address, err)
	}
	if c.system = p["system"]; c.system != "" {
		if c.system, err = c.local(c.system); err != nil {
			return config{}, power.BadConfig(op, "parameter \"system\": value %q: %v, allowed is a path like /redfish/v1/Systems/1", p["system"], err)
		}
	}
	for field, v := range map[string]string{"parameter \"fingerprint\"": p["fingerprint"], "pinned fingerprint": t.Pinned.Fingerprint} {
		if v == "" {
			continue
		}
		v = strings.ToLower(strings.ReplaceAll(v, ":", ""))
		if b, err := hex.DecodeString(v); err != nil || len(b) != 32 {
			return config{}, power.BadConfig(op, "%s: value %q, allowed are 64 hexadecimal digits", field, v)
		}
		if c.mode == tlsOff {
			return config{}, power.BadConfig(op, "%s: is set, but tls=off has no certificate", field)
		}
		c.certs = append(c.certs, v)
	}
	if c.ca, err = authorities(c.mode, p["ca_file"]); err != nil {
		return config{}, power.BadConfig(op, "parameter \"ca_file\": value %q: %v", p["ca_file"], err)
	}
	if c.cred, err = t.Secret.Resolve(); err != nil {
		return config{}, err
	}
	if c.basic && strings.Contains(c.cred.User(), ":") {
		return config{}, power.BadConfig(op, "user: contains a colon, which basic authentication cannot carry")
	}
	return c, nil
}

func address(a, scheme string) (host, full string, err error) {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		host, port = strings.Trim(a, "[]"), map[string]string{"https": "443", "http": "80"}[scheme]
	}
	if host == "" || strings.ContainsAny(host, " /@?#%") {
		return "", "", errors.New("no host")
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "", "", fmt.Errorf("port %q", port)
	}
	return host, net.JoinHostPort(host, port), nil
}

// authorities are the roots of tls=ca; nil means the system's.
func authorities(mode, file string) (*x509.CertPool, error) {
	switch {
	case file == "":
		return nil, nil
	case mode != tlsCA:
		return nil, errors.New("needs tls=ca")
	}
	st, err := os.Stat(file)
	if err == nil && (!st.Mode().IsRegular() || st.Size() > maxCA) {
		err = errors.New("not a regular file of at most 1 MiB")
	}
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, errors.New("holds no PEM certificate")
	}
	return pool, nil
}

// local takes a link of the service for use with it: absolute links must name the
// configured host, so that nobody sends us and our credentials elsewhere.
func (c config) local(link string) (string, error) {
	u, err := url.Parse(link)
	switch {
	case err != nil || len(link) > maxPath:
		return "", errors.New("no link")
	case u.Host != "" && u.Host != c.address && u.Host != c.host || u.Scheme != "" && u.Scheme != c.scheme() || u.User != nil:
		return "", errors.New("leads to another host")
	case !strings.HasPrefix(u.Path, "/") || strings.Contains(u.Path, "/.."):
		return "", errors.New("no absolute path")
	}
	return u.EscapedPath(), nil
}

// Check validates a target; it reads the secret but sends nothing.
func (d *Driver) Check(t power.Target) error {
	_, err := d.config(t)
	return err
}

// Warnings names settings with which an OFF proves nothing.
func (d *Driver) Warnings(t power.Target) []string {
	c, err := d.config(t)
	switch {
	case err != nil || c.authentic():
		return nil
	case c.mode == tlsPin:
		return []string{"certificate: none is pinned yet; until the device is enrolled, or the parameter \"fingerprint\" set, its readings prove nothing"}
	}
	return []string{fmt.Sprintf("parameter \"tls\": with %q nothing proves who answers, and OFF readings do not count for fencing", c.mode)}
}
