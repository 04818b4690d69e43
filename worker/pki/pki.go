// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/holdfast-ha/holdfast/agent/trust"
)

// Kind is what a certificate is for: a role of package trust, or an etcd member.
type Kind string

// Etcd is the kind of an etcd member's certificate: for its client and its peer port.
const Etcd Kind = "etcd"

// Kinds are all kinds.
var Kinds = []Kind{Kind(trust.Worker), Kind(trust.Host), Kind(trust.Operator), Etcd}

const (
	caFile, caKeyFile = "ca.crt", "ca.key"
	early             = 5 * time.Minute // for clocks that are a little behind
	minLife           = time.Minute
)

// operatorRoles are what the API knows, the least first.
var operatorRoles = []string{"viewer", "operator", "admin"}

// How long certificates are good for unless said otherwise.
const (
	CALife   = 10 * 365 * 24 * time.Hour
	LeafLife = 30 * 24 * time.Hour
)

// OptionError is an option that cannot be used; it names field, value and what is allowed.
type OptionError string

// Error implements error.
func (e OptionError) Error() string { return string(e) }

func badOption(format string, args ...any) error { return OptionError(fmt.Sprintf(format, args...)) }

// Options are those of Init and Issue.
type Options struct {
	Dir   string
	DNS   []string      // host names besides the usual ones
	IP    []string      // addresses besides the usual ones
	Role  string        // of an operator: viewer, operator or admin; empty: admin
	For   time.Duration // 0: CALife or LeafLife
	Force bool          // write over what is there
	Now   time.Time     // from when it is valid, a little earlier in fact
}

// Pair is where a certificate and its key were written.
type Pair struct {
	Cert, Key string
	NotAfter  time.Time
}

// Init makes a new authority in o.Dir, which it creates if it is missing.
func Init(o Options) (Pair, error) {
	if err := o.check(CALife); err != nil {
		return Pair{}, err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return Pair{}, fmt.Errorf("make directory for the authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make key: %w", err)
	}
	t, err := o.template("holdfast " + o.Now.UTC().Format("2006-01-02T15:04:05Z"))
	if err != nil {
		return Pair{}, err
	}
	t.IsCA, t.BasicConstraintsValid, t.MaxPathLenZero = true, true, true
	t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	return o.sign(t, t, key, key, caFile, caKeyFile)
}

// Issue makes a certificate of a kind, signed by the authority in o.Dir, as KIND-NAME.crt
// and KIND-NAME.key there. Workers and etcd members, which serve, get the host names NAME
// and localhost and the loopback addresses in any case.
func Issue(kind Kind, name string, o Options) (Pair, error) {
	if err := o.check(LeafLife); err != nil {
		return Pair{}, err
	}
	id := trust.Identity{Role: trust.Role(kind), ID: name}
	checked := id
	if kind == Etcd {
		checked.Role = trust.Worker // any role whose ids have the common form
	}
	if o.Role != "" && kind != Kind(trust.Operator) {
		return Pair{}, badOption("role: a certificate of a %s has none, allowed is it for operator", kind)
	}
	if !slices.Contains(Kinds, kind) {
		return Pair{}, badOption("kind %.40q: allowed are worker, host, operator and etcd", kind)
	}
	if err := checked.Check(); err != nil {
		return Pair{}, badOption("name of the %s: %v", kind, err)
	}
	ca, caKey, err := authority(o.Dir)
	if err != nil {
		return Pair{}, err
	}
	t, err := o.template(name)
	if err != nil {
		return Pair{}, err
	}
	if t.NotAfter.After(ca.NotAfter) {
		return Pair{}, badOption("for: %v ends after the authority does, allowed is up to %v (it ends at %s)", o.For, ca.NotAfter.Sub(o.Now).Truncate(time.Minute), ca.NotAfter.UTC().Format(time.RFC3339))
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	switch kind {
	case Kind(trust.Worker), Etcd:
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		t.DNSNames = unique(append([]string{name, "localhost"}, o.DNS...))
		t.IPAddresses = append([]net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, t.IPAddresses...)
	default:
		if len(o.DNS)+len(o.IP) > 0 {
			return Pair{}, badOption("dns, ip: a certificate of a %s is for no server, allowed are they for worker and etcd", kind)
		}
	}
	if kind == Kind(trust.Operator) {
		if o.Role == "" {
			o.Role = operatorRoles[len(operatorRoles)-1]
		}
		t.Subject.Organization = []string{trust.RoleOrganization(o.Role)}
	}
	if kind != Etcd {
		u, err := url.Parse(id.URI())
		if err != nil {
			return Pair{}, fmt.Errorf("write identity %s: %w", id, err)
		}
		t.URIs = []*url.URL{u}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make key: %w", err)
	}
	base := string(kind) + "-" + name
	return o.sign(t, ca, key, caKey, base+".crt", base+".key")
}

var dnsName = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

func (o *Options) check(life time.Duration) error {
	if o.For == 0 {
		o.For = life
	}
	if o.Dir == "" {
		return badOption("dir: empty, want a directory")
	}
	if o.For < minLife {
		return badOption("for: %v, allowed are %v and more", o.For, minLife)
	}
	if o.Role != "" && !slices.Contains(operatorRoles, o.Role) {
		return badOption("role: %.40q, allowed are %s", o.Role, strings.Join(operatorRoles, ", "))
	}
	for _, n := range o.DNS {
		if !dnsName.MatchString(n) || len(n) > 253 {
			return badOption("dns: %.100q, allowed is a host name", n)
		}
	}
	return nil
}

func (o *Options) template(name string) (*x509.Certificate, error) {
	t := &x509.Certificate{
		Subject:   pkix.Name{CommonName: name},
		NotBefore: o.Now.Add(-early), NotAfter: o.Now.Add(o.For),
	}
	for _, s := range o.IP {
		ip, err := netip.ParseAddr(s)
		if err != nil || ip.Zone() != "" {
			return nil, badOption("ip: %.60q, allowed is an IP address", s)
		}
		t.IPAddresses = append(t.IPAddresses, net.IP(ip.AsSlice()))
	}
	return t, nil
}

// sign signs and writes; the key goes first, so that no certificate is without one.
func (o *Options) sign(t, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey, certFile, keyFile string) (Pair, error) {
	p := Pair{Cert: filepath.Join(o.Dir, certFile), Key: filepath.Join(o.Dir, keyFile), NotAfter: t.NotAfter.UTC().Truncate(time.Second)}
	if !o.Force {
		for _, f := range []string{p.Cert, p.Key} {
			if _, err := os.Lstat(f); err == nil {
				return Pair{}, fmt.Errorf("write %s: %w; --force writes over it", f, os.ErrExist)
			}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, parentKey)
	if err != nil {
		return Pair{}, fmt.Errorf("sign certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encode key: %w", err)
	}
	if err := o.write(p.Key, 0o600, &pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}); err != nil {
		return Pair{}, err
	}
	if err := o.write(p.Cert, 0o644, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		return Pair{}, err
	}
	return p, nil
}

// write puts a whole file in place, over another one only with Force.
func (o *Options) write(file string, mode os.FileMode, b *pem.Block) error {
	tmp, err := os.CreateTemp(o.Dir, ".new-*") // 0600 from the beginning
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	_, err = tmp.Write(pem.EncodeToMemory(b))
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		if o.Force {
			err = os.Rename(tmp.Name(), file)
		} else if err = os.Link(tmp.Name(), file); err == nil { // fails where there is one
			err = os.Remove(tmp.Name())
		}
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", file, errors.Join(err, ignoreMissing(os.Remove(tmp.Name()))))
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// authority reads the authority's certificate and key.
func authority(dir string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	fail := func(file string, err error) (*x509.Certificate, *ecdsa.PrivateKey, error) {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil, fmt.Errorf("read authority %s: %w: make one with 'holdfast pki init --dir %s'", file, os.ErrNotExist, dir)
		}
		return nil, nil, fmt.Errorf("read authority %s: %w", file, err)
	}
	certPath, keyPath := filepath.Join(dir, caFile), filepath.Join(dir, caKeyFile)
	all, err := Read(certPath)
	if err != nil {
		return fail(certPath, err)
	}
	text, err := os.ReadFile(keyPath)
	if err != nil {
		return fail(keyPath, err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return fail(keyPath, errors.New("holds no key: want PEM text"))
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return fail(keyPath, errors.New("holds no PKCS #8 key"))
	}
	key, ok := any.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(all[0].PublicKey) {
		return fail(keyPath, fmt.Errorf("is not the key of %s", certPath))
	}
	return all[0], key, nil
}

// Read returns the certificates of a PEM file, at least one.
func Read(file string) ([]*x509.Certificate, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read certificate number %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("no certificate in it")
	}
	return all, nil
}

// Fingerprint is the SHA-256 of a certificate, as openssl prints it.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	parts := make([]string, len(sum))
	for i, b := range sum {
		parts[i] = fmt.Sprintf("%02X", b)
	}
	return strings.Join(parts, ":")
}

func unique(in []string) []string {
	var out []string
	for _, s := range in {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}
