// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Files are the PEM files of one participant; Fields of a Config has the same shape and
// says what they are called where they are configured.
type Files struct {
	CA   string // authorities whose certificates are believed, one or more
	Cert string // own certificate, followed by intermediate ones if there are any
	Key  string // its key, not readable by everybody
}

// None says that no file is given at all.
func (f Files) None() bool { return f == Files{} }

// material is what the files held at one moment.
type material struct {
	pair  tls.Certificate
	leaf  *x509.Certificate
	id    Identity // zero where none is asked for
	roots *x509.CertPool
	cas   []*x509.Certificate // those in roots
	caEnd time.Time           // of the authority that ends first
}

// mark tells one state of the files from another: renewed in place, renamed over, or
// behind a link that now points elsewhere.
type mark [3]struct {
	inode, size uint64
	mode        fs.FileMode
	at          time.Time
}

func (f Files) list() [3]string { return [3]string{f.CA, f.Cert, f.Key} }

// mark returns the zero mark for files that cannot be looked at: reading them says why.
func (f Files) mark() (m mark) {
	for i, name := range f.list() {
		info, err := os.Stat(name)
		if err != nil {
			return mark{}
		}
		m[i].size, m[i].mode, m[i].at = uint64(info.Size()), info.Mode(), info.ModTime()
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			m[i].inode = s.Ino
		}
	}
	return m
}

// load reads the files and says what is wrong with them: field, file, what is allowed.
// Being out of date is not among it.
func (c *Config) load() (*material, error) {
	names := c.Fields.list()
	for i, name := range c.Files.list() {
		if name == "" {
			return nil, fmt.Errorf("%s: empty, all of %s are needed", names[i], strings.Join(names[:], ", "))
		}
	}
	in := func(field, file string, err error) error { return fmt.Errorf("%s %s: %w", field, file, err) }
	m := &material{}
	if err := m.readCA(c.Files.CA); err != nil {
		return nil, in(c.Fields.CA, c.Files.CA, err)
	}
	key, err := readKey(c.Files.Key)
	if err != nil {
		return nil, in(c.Fields.Key, c.Files.Key, err)
	}
	cert, err := readFile(c.Files.Cert)
	if err != nil {
		return nil, in(c.Fields.Cert, c.Files.Cert, err)
	}
	if _, err := certificates(cert); err != nil {
		return nil, in(c.Fields.Cert, c.Files.Cert, err)
	}
	if m.pair, err = tls.X509KeyPair(cert, key); err != nil {
		return nil, in(c.Fields.Key, c.Files.Key, fmt.Errorf("not the key of the certificate in %s: %s", c.Files.Cert, strings.TrimPrefix(err.Error(), "tls: ")))
	}
	m.leaf = m.pair.Leaf
	if err := c.fits(m); err != nil {
		return nil, in(c.Fields.Cert, c.Files.Cert, err)
	}
	return m, nil
}

func (m *material) readCA(file string) error {
	text, err := readFile(file)
	if err != nil {
		return err
	}
	all, err := certificates(text)
	if err != nil {
		return err
	}
	m.roots, m.cas = x509.NewCertPool(), all
	for _, c := range all {
		if !c.IsCA {
			return fmt.Errorf("certificate %s is no authority: want those that sign the certificates of this fleet", subject(c))
		}
		if m.caEnd.IsZero() || c.NotAfter.Before(m.caEnd) {
			m.caEnd = c.NotAfter
		}
		m.roots.AddCert(c)
	}
	return nil
}

// readKey refuses a key that everybody may read: whoever has it is this participant.
func readKey(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, bare(err)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, fmt.Errorf("mode %#o lets everybody at the key, allowed are 0600 and 0640 (chmod 0600 %s; in Kubernetes defaultMode: 0440)", mode, file)
	}
	return readFile(file)
}

func readFile(file string) ([]byte, error) {
	b, err := os.ReadFile(file)
	return b, bare(err)
}

// bare strips operation and path: the caller names the file.
func bare(err error) error {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// certificates reads all certificates of a PEM file.
func certificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("holds a %s: want certificates only", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("read certificate number %d: %w", len(all)+1, err)
		}
		all = append(all, c)
	}
	if len(all) == 0 {
		return nil, errors.New("no certificate in it: want PEM text that begins with -----BEGIN CERTIFICATE-----")
	}
	return all, nil
}

// fits says whether the certificate is the one that is wanted, leaving its time aside.
func (c *Config) fits(m *material) error {
	if c.Want.Role == "" {
		return nil
	}
	id, err := Of(m.leaf)
	if err != nil {
		return err
	}
	if id.Role != c.Want.Role || c.Want.ID != "" && id.ID != c.Want.ID {
		want := c.Want.String()
		if c.Want.ID == "" {
			want = "one of the role " + string(c.Want.Role)
		}
		return fmt.Errorf("certificate is that of %s, want %s", id, want)
	}
	usages := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if id.Role == Worker {
		usages = append(usages, x509.ExtKeyUsageServerAuth)
	}
	for _, u := range usages {
		if !slices.Contains(m.leaf.ExtKeyUsage, u) && !slices.Contains(m.leaf.ExtKeyUsage, x509.ExtKeyUsageAny) {
			return fmt.Errorf("certificate %s lacks an extended key usage: want client auth, for workers also server auth", id)
		}
	}
	var wrong *PeerError
	if errors.As(m.chain(m.others(), c.now(), x509.ExtKeyUsageAny), &wrong) && wrong.Reason != Expired && wrong.Reason != NotYetValid {
		return fmt.Errorf("%w in %s %s", wrong, c.Fields.CA, c.Files.CA)
	}
	m.id = id
	return nil
}

// others is the own chain as a peer sees it.
func (m *material) others() []*x509.Certificate {
	all := []*x509.Certificate{m.leaf}
	for _, der := range m.pair.Certificate[1:] {
		if c, err := x509.ParseCertificate(der); err == nil { // X509KeyPair keeps what it does not look at
			all = append(all, c)
		}
	}
	return all
}
