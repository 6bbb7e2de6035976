#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""The device from outside, with stores and flushes by the qtest protocol."""
import os
import shutil

from pmemha.process import Qemu, Replica, pmem_args, pmemctl
from pmemha.qtest import HINT, PMEM_BASE, QtestQemu
from pmemha import tap
from pmemha.tap import cases, check, equal

SIZE = 16 << 20
PAGE = 4096


def content(path):
    with open(path, 'rb') as f:
        return f.read()


def start(work, replica, name='qemu', back='p.img', state='p.state', more=(),
          index=0, **kw):
    path = work.file(back)
    if not os.path.exists(path):
        work.sparse(back, SIZE)
    return QtestQemu(work, pmem_args(path, SIZE, index, replica,
                                     work.file(state), **kw) + list(more),
                     name=name)


def refused(qemu, *texts):
    """QEMU ends by itself and its message has all of texts."""
    check(qemu.wait(30) != 0, 'QEMU started')
    for text in texts:
        check(text in qemu.errors(), 'no %r in: %s' % (text, qemu.errors()))


def promoted_image(replica):
    return content(replica.promote()['mem-path'])


def test_flush_reaches_the_replica(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.writeq(PMEM_BASE + 8, 0x1122334455667788)
    q.write(PMEM_BASE + SIZE - 16, b'end')
    q.flush()
    q.writeq(PMEM_BASE + 5 * PAGE, 0xdead)      # never flushed
    q.kill()
    os.unlink(work.file('p.img'))
    image = promoted_image(r)
    equal(image[8:16].hex(), '8877665544332211', 'flushed store')
    equal(image[-16:-13], b'end', 'flushed store at the end')
    equal(image[5 * PAGE:5 * PAGE + 2], b'\0\0', 'store that was not flushed')


@cases(1, 2, 4, 8)
def test_hint_of_any_width(work, width):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    before = q.query()['flushes']
    q.command('write%s 0x%x 0xff' % ({1: 'b', 2: 'w', 4: 'l', 8: 'q'}[width],
                                     HINT + 64 - width))
    equal(q.query()['flushes'], before + 1, 'flushes')
    equal(q.readq(HINT), 0, 'hint reads as')
    q.writeq(HINT + 64, 1)
    equal(q.query()['flushes'], before + 1, 'flushes by the hint of slot 1')


def test_two_devices(work):
    r = Replica(work, SIZE, exports=2)
    args = []
    for i in range(2):
        work.sparse('p%d.img' % i, SIZE)
        args += pmem_args(work.file('p%d.img' % i), SIZE, i, r,
                          work.file('p%d.state' % i))
    q = QtestQemu(work, args)
    q.settle('pm0')
    q.settle('pm1')
    second = int(q.hmp_address('pm1'), 0) if hasattr(q, 'hmp_address') \
        else PMEM_BASE + SIZE
    q.writeq(PMEM_BASE, 1)
    q.writeq(second, 2)
    q.flush(1)
    q.kill()
    equal(content(r.promote(export='pm1')['mem-path'])[0], 2, 'pm1')
    equal(content(r.promote(export='pm0')['mem-path'])[0], 0,
          'pm0, not flushed')


def test_orderly_restart_needs_no_copy(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.writeq(PMEM_BASE, 7)
    q.flush()
    q.qmp.cmd('quit')
    equal(q.wait(), 0, 'exit status')
    q = start(work, r, name='again')
    info = q.settle()
    equal(info['epoch-captured'], 2, 'epoch')
    check(info['wire-bytes'] < 4096, 'a copy was made: %r' % info)
    q.writeq(PMEM_BASE + PAGE, 8)
    q.flush()
    q.kill()
    image = promoted_image(r)
    equal((image[0], image[PAGE]), (7, 8), 'stores before and after')


def test_killed_primary_copies_again(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.writeq(PMEM_BASE, 7)
    q.kill()                    # store without a flush
    q = start(work, r, name='again')
    q.settle()
    q.kill()
    equal(promoted_image(r)[0], 7, 'store of the first run')


def test_last_epoch_at_quit(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.writeq(PMEM_BASE, 9)
    q.qmp.cmd('quit')
    equal(q.wait(), 0, 'exit status')
    equal(promoted_image(r)[0], 9, 'store without a flush before quit')


def older_copy(work, files):
    """A primary that ran on after its files were copied."""
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.writeq(PMEM_BASE, 1)
    q.qmp.cmd('quit')
    q.wait()
    for name in files:
        shutil.copy(work.file(name), work.file(name + '.old'))
    q = start(work, r, name='second')
    q.settle()
    q.writeq(PMEM_BASE, 2)
    q.flush()
    q.qmp.cmd('quit')
    q.wait()
    for name in files:
        shutil.copy(work.file(name + '.old'), work.file(name))
    q = start(work, r, name='third')
    return r, q


def test_older_backing_file_is_refused(work):
    r, q = older_copy(work, ['p.img'])
    refused(q, "pm0", 'does not hold what state-file', 'epoch')
    equal(promoted_image(r)[0], 2, 'the replica kept the newest')


def test_older_backing_and_state_are_refused(work):
    r, q = older_copy(work, ['p.img', 'p.state'])
    refused(q, 'holds epoch 3 of generation 1', 'epoch 2 of generation 1',
            'nothing was overwritten')
    equal(promoted_image(r)[0], 2, 'the replica kept the newest')


def test_lost_state_file_is_refused(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.kill()
    os.unlink(work.file('p.state'))
    refused(start(work, r, name='again'), 'holds epoch 1', 'nothing was')


def test_promote_fences_the_primary(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.qmp.cmd('cont')
    r.promote()
    q.qmp.wait_event('PMEM_HA_STATE', 10, state='fenced')
    q.qmp.wait_event('STOP', 10)
    equal(q.query()['state'], 'fenced', 'state')
    q.qmp.cmd('cont')
    q.qmp.wait_event('STOP', 10)
    check(not q.qmp.cmd('query-status')['running'], 'it runs again')
    q.kill()
    refused(start(work, r, name='again'), 'promoted to generation 2')


def test_second_host_and_way_back(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.writeq(PMEM_BASE, 5)
    q.flush()
    q.kill()
    text = pmemctl(work, 'promote', '--socket', r.qmp_path)
    line = [l for l in text.splitlines() if l.startswith('-object')][-1]
    r.terminate()
    # The printed arguments, as they are
    second = QtestQemu(work, line.split(), name='second')
    equal(second.readq(PMEM_BASE), 5, 'content at the second host')
    equal(second.query()['generation'], 2, 'generation')
    equal(second.query()['state'], 'standalone', 'state')
    second.writeq(PMEM_BASE, 6)
    second.qmp.cmd('quit')
    second.wait()
    # The way back: a new replica where the first primary was
    back = Replica(work, SIZE, name='back', image='back%d.img')
    third = QtestQemu(work, line.split()[:2] + [
        '-object', 'pmem-replica,id=r0,addr.type=unix,addr.path=' + back.sock,
        '-device', line.split()[3] + ',replica=r0'], name='third')
    third.settle()
    third.kill()
    equal(promoted_image(back)[0], 6, 'content on the way back')


def test_image_of_a_replica_is_refused(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.kill()
    path = r.images[0]
    refused(QtestQemu(work, pmem_args(path, SIZE, state=work.file('x.state')),
                      name='live'), 'pm0', 'replica')
    r.kill()
    refused(QtestQemu(work, pmem_args(path, SIZE, state=work.file('x.state')),
                      name='dead'), 'is the image of a replica')


def test_backing_file_in_use(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    other = QtestQemu(work, pmem_args(work.file('p.img'), SIZE), name='other')
    refused(other, 'in use by another QEMU')


def test_replica_absent_at_start(work):
    q = start(work, None, more=[])
    q.kill()
    q = QtestQemu(work, pmem_args(
        work.file('p.img'), SIZE, state=work.file('q.state'),
        replica=type('No', (), {'sock': work.file('no.sock')}),
        object_options=',connect-timeout-ms=300'), name='absent')
    refused(q, 'no.sock', 'connect-timeout-ms=300', 'Start qemu-pmem-replica')
    check(not os.path.getsize(work.file('q.state')), 'state file written')


def test_replica_comes_later(work):
    sock = work.file('replica.sock')
    work.sparse('p.img', SIZE)
    q = QtestQemu(work, pmem_args(
        work.file('p.img'), SIZE, state=work.file('p.state'),
        replica=type('No', (), {'sock': sock}),
        object_options=',connect-timeout-ms=0'))
    equal(q.query()['state'], 'connecting', 'state')
    r = Replica(work, SIZE)
    q.wait_state('in-sync')
    q.writeq(PMEM_BASE, 3)
    q.flush()
    q.kill()
    equal(promoted_image(r)[0], 3, 'store')


def test_replica_restarts(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    for n in range(5):
        q.writeq(PMEM_BASE + n * PAGE, n + 1)
        q.flush()
        r.kill()
        r = Replica(work, SIZE)
        q.wait_state('in-sync')
    info = q.settle()
    check(info['wire-bytes'] < 3 * SIZE, 'copied at each reconnect')
    q.kill()
    image = promoted_image(r)
    equal([image[n * PAGE] for n in range(5)], [1, 2, 3, 4, 5], 'stores')


def test_replica_without_its_data_gets_a_copy(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.writeq(PMEM_BASE, 4)
    q.flush()
    r.kill()
    for name in os.listdir(work.path):
        if name.startswith('replica0.img'):
            os.unlink(work.file(name))
    r = Replica(work, SIZE)
    q.wait_state('in-sync')
    q.kill()
    equal(promoted_image(r)[0], 4, 'store')


@cases(('size', 2 * SIZE, {}, 'size'),
       ('slot', SIZE, {'device_options': ',slot=1'}, 'slot'),
       ('uuid', SIZE, {'device_options':
                       ',uuid=00000000-0000-4000-8000-00000000000b'}, 'UUID'),
       ('label-size', SIZE, {'device_options': ',label-size=128K'}, 'label'))
def test_mismatch_is_refused_by_name(work, case):
    _, size, options, word = case
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    q.kill()
    work.sparse('other.img', size)
    other = QtestQemu(work, pmem_args(work.file('other.img'), size, 0, r,
                                      work.file('other.state'), **options),
                      name='other')
    refused(other, word)


@cases('on-link-loss=solo', 'flush-track=insn', 'consistency-group=g',
       'staging-size=1', 'ack=never', 'mode=maybe', 'flush-track=maybe')
def test_option_is_refused_by_name(work, option):
    r = Replica(work, SIZE)
    q = start(work, r, device_options=',' + option)
    refused(q, option.split('=')[0] if '=' in option else option)


def test_machine_that_needs_no_flush_is_refused(work):
    r = Replica(work, SIZE)
    work.sparse('p.img', SIZE)
    q = QtestQemu(work, pmem_args(work.file('p.img'), SIZE, 0, r,
                                  work.file('p.state')),
                  machine=['-machine', 'q35,nvdimm=on,nvdimm-persistence=cpu',
                           '-m', '64M,slots=4,maxmem=4G', '-S'])
    refused(q, 'nvdimm-persistence=cpu')


def test_migration_is_refused(work):
    r = Replica(work, SIZE)
    q = start(work, r)
    q.settle()
    try:
        q.qmp.cmd('migrate', uri='exec:cat >/dev/null')
    except Exception as e:      # pylint: disable=broad-except
        check('pm0' in str(e), str(e))
        return
    raise AssertionError('migration started')


def test_hot_plug(work):
    r = Replica(work, SIZE)
    work.sparse('p.img', SIZE)
    q = QtestQemu(work, [])
    q.qmp.cmd('object-add', qom_type='memory-backend-file', id='mem0',
              mem_path=work.file('p.img'), size=SIZE, share=True)
    q.qmp.cmd('object-add', qom_type='pmem-replica', id='r0',
              addr={'type': 'unix', 'path': r.sock})
    q.qmp.cmd('device_add', driver='pmem-ha', id='pm0', memdev='mem0',
              replica='r0', state_file=work.file('p.state'))
    q.settle()
    q.writeq(PMEM_BASE, 2)
    q.flush()
    q.kill()
    equal(promoted_image(r)[0], 2, 'store')


def test_large_epoch_is_sent_from_guest_memory(work):
    r = Replica(work, SIZE)
    q = start(work, r, device_options=',staging-size=64K')
    q.settle()
    for n in range(64):
        q.writeq(PMEM_BASE + n * PAGE, n + 1)
    q.flush()
    q.kill()
    image = promoted_image(r)
    equal([image[n * PAGE] for n in range(64)], list(range(1, 65)), 'stores')


@cases('received', 'journaled', 'applied')
def test_ack_level(work, ack):
    r = Replica(work, SIZE)
    q = start(work, r, device_options=',ack=' + ack)
    q.settle()
    q.writeq(PMEM_BASE, 2)
    q.flush()
    equal(q.query()['ack'], ack, 'ack')
    q.kill()
    equal(promoted_image(r)[0], 2, 'store')


def test_standalone_makes_no_epoch(work):
    work.sparse('p.img', SIZE)
    q = QtestQemu(work, pmem_args(work.file('p.img'), SIZE) + [
        '-trace', 'pmem_ha_capture', '-trace', 'pmem_ha_flush'])
    for _ in range(20):
        q.writeq(HINT, 1)
    equal(q.query()['flushes'], 20, 'flushes')
    q.qmp.cmd('quit')
    q.wait()
    check('pmem_ha_capture' not in q.errors(), 'an epoch was captured')
    check('pmem_ha_flush' not in q.errors(), 'a flush waited')


def test_no_device(work):
    q = Qemu(work, ['-machine', 'none'])
    equal(q.qmp.cmd('query-pmem-ha'), [], 'devices')
    check('No pmem-ha' in q.qmp.hmp('info pmem-ha'), 'info pmem-ha')


if __name__ == '__main__':
    tap.main(globals())
