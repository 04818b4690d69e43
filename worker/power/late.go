// SPDX-License-Identifier: Apache-2.0

package power

// SealedRef is the password reference of a device whose credential is kept sealed in the
// fleet's store; NewLateSecret is made of it.
const SealedRef = "sealed"

// late is what a secret asks; behind a pointer, so that secrets stay comparable.
type late struct {
	open func() (user, password string, err error)
}

// NewLateSecret makes a secret that asks open each time it is resolved. user, plain text
// or a reference as in NewSecret, counts where open names none. open does local work
// only, is safe for concurrent use, and its errors contain no value.
func NewLateSecret(user, dir string, open func() (user, password string, err error)) (Secret, error) {
	if err := checkRef("user", user, dir); err != nil {
		return Secret{}, err
	}
	return Secret{user: user, dir: dir, late: &late{open: open}}, nil
}

// resolve asks; the user is still a reference where open named none.
func (l *late) resolve(def string) (user, password string, err error) {
	user, password, err = l.open()
	if err != nil {
		e := BadConfig("resolve secret", "%v", err)
		e.Err = err
		return "", "", e
	}
	if password == "" {
		return "", "", BadConfig("resolve secret", "the password is empty")
	}
	if user == "" {
		user = def
	}
	return user, password, nil
}
