// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"

	"github.com/holdfast-ha/holdfast/coordinator/command"
)

// Version of the files.
const Version = 1

// maxFile bounds a file, in bytes: what is larger is not ours.
const maxFile = 1 << 20

// Entry is what the agent has written down of one command.
type Entry struct {
	V     int                   `json:"v"`
	ID    string                `json:"id"`
	Spec  command.Spec          `json:"spec"`
	Steps []command.JournalStep `json:"steps"` // the last one is where it stands
}

// Last is where the command stands.
func (e Entry) Last() command.JournalStep {
	if len(e.Steps) == 0 {
		return command.JournalStep{}
	}
	return e.Steps[len(e.Steps)-1]
}

// envelope is a file: the checksum is over the bytes of Entry as they stand in it.
type envelope struct {
	Sum   string          `json:"sha256"`
	Entry json.RawMessage `json:"entry"`
}

// encode makes the content of a file.
func encode(e Entry) ([]byte, error) {
	b, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("encode journal entry %s: %w", e.ID, err)
	}
	sum := sha256.Sum256(b)
	out, err := json.Marshal(envelope{Sum: hex.EncodeToString(sum[:]), Entry: b})
	if err != nil {
		return nil, fmt.Errorf("encode journal entry %s: %w", e.ID, err)
	}
	return append(out, '\n'), nil
}

// Why a file is set aside.
var (
	errTorn    = errors.New("torn or damaged")
	errForeign = errors.New("not a journal entry")
	errNewer   = errors.New("of a newer version")
)

// decode reads the content of a file; id is what the name of the file says.
func decode(b []byte, id string) (Entry, error) {
	if len(b) > maxFile {
		return Entry{}, fmt.Errorf("%w: %d bytes, at most %d are", errForeign, len(b), maxFile)
	}
	if len(bytes.TrimSpace(b)) == 0 {
		return Entry{}, fmt.Errorf("%w: empty", errTorn)
	}
	var env envelope
	if err := json.Unmarshal(b, &env); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", errTorn, err)
	}
	if env.Sum == "" || len(env.Entry) == 0 {
		return Entry{}, fmt.Errorf("%w: no checksum", errForeign)
	}
	if sum := sha256.Sum256(env.Entry); hex.EncodeToString(sum[:]) != env.Sum {
		return Entry{}, fmt.Errorf("%w: its checksum is another", errTorn)
	}
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(env.Entry, &head); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", errForeign, err)
	}
	if head.V > Version {
		return Entry{}, fmt.Errorf("%w: %d, this agent knows %d", errNewer, head.V, Version)
	}
	var e Entry
	if err := json.Unmarshal(env.Entry, &e); err != nil {
		return Entry{}, fmt.Errorf("%w: %w", errForeign, err)
	}
	switch {
	case e.V < 1 || len(e.Steps) == 0:
		return Entry{}, fmt.Errorf("%w: v is %d, %d steps", errForeign, e.V, len(e.Steps))
	case e.ID != id:
		return Entry{}, fmt.Errorf("%w: it is of command %q", errForeign, e.ID)
	}
	for i, s := range e.Steps {
		if s.Seq != i+1 {
			return Entry{}, fmt.Errorf("%w: step %d is numbered %d", errForeign, i+1, s.Seq)
		}
	}
	return e, nil
}

// idRegexp: an id is the name of a file.
var idRegexp = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// CheckID tests a command's id before it becomes the name of a file.
func CheckID(id string) error {
	if !idRegexp.MatchString(id) {
		return fmt.Errorf("command id %q: want 1 to 63 letters, digits, '.', '_' or '-', starting with a letter or digit", id)
	}
	return nil
}
