// SPDX-License-Identifier: Apache-2.0

package trust

import (
	"crypto/x509"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Role is what the holder of a certificate is to the others.
type Role string

// The roles.
const (
	Worker   Role = "worker"   // serves agents, operators and other workers
	Host     Role = "host"     // an agent; speaks for its own host only
	Operator Role = "operator" // asks the API
)

// Roles are all roles.
var Roles = []Role{Worker, Host, Operator}

// Identity is whom a certificate stands for.
type Identity struct {
	Role Role
	ID   string
}

const scheme = "holdfast://"

// idForm is what ids look like on record (leases.CheckID); operators may be addresses.
var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
var operatorForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@-]{0,62}$`)

// Check says whether there can be such an identity.
func (i Identity) Check() error {
	form, also := idForm, "'.', '_' or '-'"
	switch i.Role {
	case Worker, Host:
	case Operator:
		form, also = operatorForm, "'.', '_', '-' or '@'"
	default:
		return fmt.Errorf("role %.40q: allowed are worker, host and operator", i.Role)
	}
	if !form.MatchString(i.ID) {
		return fmt.Errorf("%s %.70q: want 1 to 63 letters, digits, %s, starting with a letter or digit", i.Role, i.ID, also)
	}
	return nil
}

// String is how it is written for people and in the audit log: operator/ann.
func (i Identity) String() string { return string(i.Role) + "/" + i.ID }

// URI is how it is written in a certificate.
func (i Identity) URI() string { return scheme + i.String() }

// ParseURI reads an identity as URI writes it, and nothing else: no port, query,
// fragment or escape.
func ParseURI(s string) (Identity, error) {
	rest, ours := strings.CutPrefix(s, scheme)
	role, id, _ := strings.Cut(rest, "/")
	i := Identity{Role(role), id}
	if !ours {
		return Identity{}, fmt.Errorf("identity %.100q: want %sworker/ID, host/ID or operator/NAME", s, scheme)
	}
	if err := i.Check(); err != nil {
		return Identity{}, fmt.Errorf("identity %.100q: %w", s, err)
	}
	return i, nil
}

// Of returns the one identity that a certificate names. It says nothing of who signed it.
func Of(c *x509.Certificate) (Identity, error) {
	var all []Identity
	for _, u := range c.URIs {
		if !strings.EqualFold(u.Scheme, "holdfast") {
			continue
		}
		i, err := ParseURI(u.String())
		if err != nil {
			return Identity{}, err
		}
		all = append(all, i)
	}
	switch {
	case len(all) == 0:
		return Identity{}, fmt.Errorf("certificate %s names no identity: want one URI such as %sworker/w1", subject(c), scheme)
	case len(all) > 1:
		return Identity{}, fmt.Errorf("certificate %s names %d identities: want one", subject(c), len(all))
	case c.Subject.CommonName != "" && c.Subject.CommonName != all[0].ID:
		return Identity{}, fmt.Errorf("certificate %s has common name %.70q: want %q or none", all[0], c.Subject.CommonName, all[0].ID)
	}
	return all[0], nil
}

// rolePrefix begins the organization that says what an operator may do.
const rolePrefix = "holdfast:"

// RoleOrganization is the organization of an operator's certificate that gives a role.
func RoleOrganization(role string) string { return rolePrefix + role }

// OperatorRole is what the organization of an operator's certificate says that its holder
// may do, as in O=holdfast:admin; empty when it says nothing, or more than one thing.
func OperatorRole(c *x509.Certificate) (role string) {
	for _, o := range c.Subject.Organization {
		if r, ours := strings.CutPrefix(o, rolePrefix); ours {
			if role != "" {
				return ""
			}
			role = r
		}
	}
	return role
}

// subject names a certificate in an error.
func subject(c *x509.Certificate) string {
	for _, u := range c.URIs {
		if i, err := ParseURI(u.String()); err == nil {
			return i.String()
		}
	}
	if c.Subject.CommonName != "" {
		return fmt.Sprintf("%.70q", c.Subject.CommonName)
	}
	return fmt.Sprintf("number %x", c.SerialNumber)
}

// Loopback says whether a host, as it stands in an address, is this machine for certain.
func Loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
